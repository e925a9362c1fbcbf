"""Kinds of work for tests of the toolkit."""
