"""Faults, injected from outside: one test or more for each row of the table in docs/faults.md."""
