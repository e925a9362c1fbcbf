"""The text of reports: sections, labels by rule, and transforms."""
