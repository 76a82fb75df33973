"""What the HTTP API costs: submissions, a large batch, waiting clients, and the whole service under two engines."""
