"""Kinds of stages that make data."""
