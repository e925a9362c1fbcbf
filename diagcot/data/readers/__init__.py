"""Readers of collections: tables, images and reports as they were downloaded become studies."""
