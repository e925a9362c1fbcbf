"""The files of a run and the events of its stages, as the code writes them."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]

RUN_FILES = {
    "run.json": "Name, uuid, recipe, cluster and stages of the run; created once.",
    "recipe.yaml": "The recipe at the first submission.",
    "cluster.yaml": "The cluster at the latest submission.",
    "estimates.json": "Stage of training -> parameters, memory and GPU-hours that were estimated.",
    "stages": "Names of the stages, in order.",
    "places.json": "Folders where the run was submitted or retried, with their inodes: a copy is known by them.",
    "grown/<n>/": "What the run has grown by: growth.json, the lists of further units, the recipe and estimates then.",
    "code/<digest>/": "The code as it was at a submission; the jobs run this copy.",
    "environments": "Folders of the environments of Python that its jobs use.",
    "runner.json, runner.log, runner.lock": "Without Slurm: the process that starts the tasks, and its right to do so.",
    "write.<n>.lease, submit.<n>.lease": "The right of one process at a time to write the run, and to submit its jobs.",
    "scripts/": "Batch scripts to submit by hand (`make scripts`).",
    "reused.json": "Products that the run takes from other runs.",
    "metrics.json, report.html, report.md": "The metrics table and the report.",
    "study.json, study.md, study.html": "Of a study: the claims with their differences and verdicts.",
    "traces.html, traces.json": "Samples of the chains of thought, and their statistics.",
}
STAGE_FILES = {
    "plan.json": "The plan of the stage; created once and never changed.",
    "units.jsonl": "The units, one on a line: `key` and parameters.",
    "job.sbatch": "The script as submitted to Slurm.",
    "attempts/<n>.json": "A submission: jobs, tasks, resources, who asked for it and why.",
    "out/<task>.<attempt>.log": "What a task printed; `.r1` and so on are other ranks.",
    "progress/<task>.json": "How far a task is.",
    "partial/<unit>~<attempt>.jsonl": "Finished records of a unit that is not done yet.",
    "done/<unit>.json": "The unit is done: outputs with sha256, counts (`needed`: what a stage must have some of), seconds.",
    "accounts/<unit>.json": "Kind `shard`: what the unit read of each source, and what became of it.",
    "failed/<task>.<attempt>.r<rank>.json": "An error: type, message, traceback, and where the fault lies (`fault_in`).",
    "slurm/": "Scripts as submitted, and what their jobs printed before the worker began.",
    "unsubmitted.json": "A finaliser that Slurm did not let resubmit, and why; it is held until a retry.",
    "events.jsonl": "What happened, see events.md.",
    "summary.json": "Written when the stage ends: state, counts, retries, GPU-hours.",
}
PLAN_KEYS = {
    "run": "Name of the run.",
    "stage": "Name of the stage.",
    "number": "What `make submit-stage…` selects it by: 0 to 3, or eval.",
    "kind": "Import path of the module that does the work.",
    "settings": "Settings of the kind, defaults included.",
    "inputs": "Role -> folders of the products that the stage reads.",
    "output": "Folder of the stage's product.",
    "workspace": "Private folder, kept between attempts and removed when the stage is done.",
    "shards_root": "Folder that references to images begin at.",
    "seed": "Seed of every random choice.",
    "after": "Stages that this one follows; `each`: unit by unit.",
    "resources": "Resources of one job, see clusters.md.",
    "profile": "Resource profile that the resources came from.",
    "tasks": "Number of array tasks that the units are packed into.",
    "stage_dir": "Folder of the stage.",
    "startup_s": "Declared seconds before a task can begin with its first unit.",
    "unit_s": "Declared seconds for one unit.",
    "code": "Copy of the code that the jobs run.",
    "cluster": "Name of the cluster.",
    "setup": "Shell lines before the work at the first submission; jobs run those of cluster.yaml.",
    "yields": "Counter that GPU-hours are reported for, in thousands of it.",
    "yields_from": "Earlier stages whose GPU-hours are included.",
    "grows": "Whether the stage may grow: no (empty), by further units, or by making its product again (`anew`).",
    "listed": "Settings that only choose units; they may differ when the stage grows.",
    "units": "Number of units.",
    "units_sha256": "Digest of units.jsonl.",
    "created": "Time of creation in seconds since the epoch.",
}
ATTEMPT_KEYS = {
    "number": "Number of the submission, from 1.",
    "why": "Why it was submitted.",
    "by": "person or finaliser.",
    "time": "Time of the submission in seconds since the epoch.",
    "code": "Copy of the code that its jobs run.",
    "arrays": "Its sbatch calls: job id, job name, tasks (`slots`), dependency and resources.",
    "finaliser": "Job id of the stage's finaliser; empty if that of an earlier submission stays.",
    "finaliser_name": "Job name of the finaliser.",
    "finaliser_after": "Dependency of the finaliser.",
    "spent": "Task -> failures that count since a person last submitted it.",
    "marks": "Task -> progress at the submission.",
}
EVENTS = {
    "started": "A task begins with its units.",
    "parked": "A task stopped after the warning signal and will continue in its next execution.",
    "hung": "A task gave no sign of life for `hang_minutes` and is ended.",
    "failed": "A task ended with an error, whose type is named.",
    "lost": "Another execution published the same unit first; this one's outputs were removed.",
    "finalised": "The finaliser ended the stage as done or failed.",
    "server_ready": "A vLLM server answers requests.",
    "server_lost": "A vLLM server died or did not answer any more.",
    "server_restart": "A vLLM server is started again.",
    "server_reload_incomplete": "A server did not get all parameters of new weights and is started again.",
    "training": "Training begins: sizes of the data, number of steps, parameters by component.",
    "ready": "Ray, the rollout servers and the reward workers of a GRPO stage are ready.",
    "validated": "Figures of the held-out prompts after a step.",
    "gap_warning": "Policy and servers differ by more than `warn_gap`: the first such step of an execution, and its gap.",
    "prompts_left_out": "Prompts of a GRPO stage that its servers cannot take: too long, or with too many images; of how many.",
    "device_sync_refused": "`sync: device` is not possible, with the reason; the weights travel as files from now on.",
    "score_late": "A reward gave no score of a rollout before `score_timeout_s`; the rollout scores 0.",
    "tracker_failed": "A tracker (wandb, mlflow, swanlab) failed for the first time, with the reason; training goes on.",
    "tracker_failures": "How often a tracker failed in an execution.",
    "stopped": "Training stopped after a step because a stop was requested.",
    "resumed": "Training continues from a checkpoint.",
    "checkpoint": "A checkpoint is complete: seconds that training waited, and seconds of writing.",
    "checkpoint_failed": "A checkpoint could not be written; training goes on.",
    "checkpoint_passed_over": "A checkpoint was damaged or incomplete, and an older one is used.",
    "checkpoint_set_aside": "Checkpoints of other settings, data, weights or code were set aside; training starts over.",
    "converted": "A checkpoint was converted for another number of ranks.",
    "blank_answers": "Samples with an empty answer were left out of training; of how many.",
    "bad_image": "An image could not be read and was left out.",
    "bad_report": "A report or a row of a table could not be read and was left out.",
    "bad_box": "A box does not fit its image and was left out.",
    "data_remark": "Something in a collection that is worth knowing; nothing was left out.",
    "foreign_rows": "Of a foreign model's file: rows that name no sample or cannot be used, and samples without an answer, a"
    " few of each.",
    "image_flagged": "An image in a shard looks wrong: almost blank, nearly black, nearly white, or inverted.",
    "seen_in_training": "Test samples that were not asked, because a model was trained or chosen on one of their images: how each"
    " is known again, and their number; of how many.",
    "metric_missing": "A metric has no value, with the reason.",
}


def events() -> dict[str, set[str]]:
    """Every event that the code writes, and the fields that it names."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, names in _events(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(name, set()).update(names)
    return found


def _events(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            first = node.args[0] if node.args else None
            if node.func.attr in ("event", "_event") and isinstance(first, ast.Constant):
                yield str(first.value), [keyword.arg for keyword in node.keywords if keyword.arg]
        if isinstance(node, ast.Dict):
            row = {
                key.value: value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant)
            }
            if isinstance(name := row.get("event"), ast.Constant):
                yield str(name.value), [str(key) for key in row if key not in ("event", "time")]
