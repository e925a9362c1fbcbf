"""One module for each kind of training stage: what the ranks of a job run."""
