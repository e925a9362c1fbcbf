"""Scores by models that read reports."""
