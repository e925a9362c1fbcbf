"""The first hour at a site: what its Slurm says of itself, and a cluster file made from it."""
