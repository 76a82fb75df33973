"""Every figure that the README quotes, one command each, with peers beside us."""
