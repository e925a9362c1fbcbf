"""The reference of keys, events and files: shown by `diagcot help`, written to docs/reference."""
