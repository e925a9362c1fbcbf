"""Kinds of stages that evaluate models."""
