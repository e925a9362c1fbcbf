"""Checks before anything is submitted: on this host (doctor) and on the nodes (rehearsal)."""
