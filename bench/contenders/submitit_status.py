"""Where the jobs of a submission stand, as submitit tells it: python submitit_status.py FOLDER."""

import collections
import sys
from pathlib import Path

import submitit

ids = [path.name.removesuffix("_submitted.pkl") for path in Path(sys.argv[1]).glob("*_submitted.pkl")]
jobs: list[submitit.SlurmJob[object]] = [submitit.SlurmJob(sys.argv[1], job) for job in ids]
print(collections.Counter(job.state for job in jobs))
