"""Scores of each task and the table of a run."""
