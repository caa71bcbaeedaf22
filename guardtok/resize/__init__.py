"""Models resized for new tokens: planned, applied as a transaction, verified, and undone when a check fails."""
