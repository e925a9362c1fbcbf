"""Kinds of stages that make and filter chains of thought."""
