"""Phantoms: chest X-rays that this project draws, whose anatomy follows the findings of a report."""
