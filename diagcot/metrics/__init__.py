"""Metrics: pure functions of texts, labels, boxes and scores."""
