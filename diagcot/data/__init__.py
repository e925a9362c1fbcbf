"""Chest X-ray collections as typed studies: readers, reports, labels, and phantoms."""
