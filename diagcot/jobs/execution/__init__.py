"""Runs the work of a stage: in a job on Slurm, on this machine, or in a debugger."""
