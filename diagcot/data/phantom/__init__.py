"""Phantoms: chest films drawn by this project, whose anatomy follows the findings of a report."""

COMMENT = "phantom: drawn by diagcot, not a film of a person"
"""The JPEG comment of every phantom film; a film that carries it is never taken for a person's."""
