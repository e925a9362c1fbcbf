"""The `diagcot` command: one module for each group of verbs."""
