"""The loop of supervised training and the alignment objective."""
