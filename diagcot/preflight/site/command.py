"""`diagcot cluster init`: asks Slurm and writes a cluster file for a person to edit."""

import re
from pathlib import Path

from diagcot.console.commands import typed
from diagcot.jobs import UserError
from diagcot.jobs.cluster import load_cluster
from diagcot.jobs.names import check_name
from diagcot.preflight.site import draft, facts


def init(name: str | None, folder: Path) -> Path:
    """Write the file of the cluster and return its path. name: None takes Slurm's own name of the cluster.

    Raises UserError if the file is there already, or if Slurm does not answer.
    """
    found = facts.ask()
    name = name or re.sub(r"[^A-Za-z0-9_-]", "-", found.config.get("ClusterName", "")) or "site"
    check_name(name, "CLUSTER")
    path = folder / f"{name}.yaml"
    text = draft.draft(name, found)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} is there already: remove it, or name another one with CLUSTER=") from error
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    load_cluster(path)
    print(f"{path} is written: check it, above all what is marked with <>. Then:")
    for verb in ("doctor", "rehearse"):
        print(typed(f"  make {verb} CLUSTER={name}"))
    return path
