"""Typed settings of the training stages."""
