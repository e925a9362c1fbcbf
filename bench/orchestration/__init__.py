"""Parts of `make bench-jobs`: submission, status screens and the makespan of a chain."""
