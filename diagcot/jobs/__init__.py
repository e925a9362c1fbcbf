"""The job-array toolkit: a plan of units, a ledger of files that says what is done, workers, and chains of Slurm jobs.

Nothing here knows what the units compute. See docs/jobs.md.
"""
