"""What the queue costs: submission, claims, the way end to end, waking up, recovery, and two other ways beside it."""
