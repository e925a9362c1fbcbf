"""Losses of supervised training: language model and contrastive."""
