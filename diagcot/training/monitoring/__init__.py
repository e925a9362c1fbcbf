"""Figures of a training stage: step timer, log, curves."""
