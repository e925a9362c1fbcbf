"""The files of a run, one module for each kind of file."""
