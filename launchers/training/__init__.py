"""Kinds of stages that make models."""
