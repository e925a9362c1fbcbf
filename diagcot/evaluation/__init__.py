"""Evaluation: predictions, scores with intervals, and the report of a run."""
