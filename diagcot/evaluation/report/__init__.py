"""The report of a run: HTML, Markdown and a model card."""
