"""Readers of model text: think and answer tags, options, labels and boxes, for rewards, traces and evaluation alike."""
