"""Statistics and a page of traces for review."""
