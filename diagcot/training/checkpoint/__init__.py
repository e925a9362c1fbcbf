"""Checkpoints of a running stage and the model directory that it publishes."""
