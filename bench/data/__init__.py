"""From files on disk to a checked data set, a locked split, and decoded pictures."""
