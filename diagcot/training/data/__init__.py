"""Samples, images and batches of a training stage."""
