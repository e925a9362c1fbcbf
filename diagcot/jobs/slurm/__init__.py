"""What the suite knows of Slurm: commands, limits, capacity, scripts and submission."""
