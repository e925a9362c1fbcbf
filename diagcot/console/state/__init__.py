"""What the screens show, read from the files of a run and from Slurm."""
