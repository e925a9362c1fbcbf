"""Train chest X-ray vision-language models to reason step by step from free-text reports, as a chain of Slurm jobs."""

__version__ = "0.2.0"
