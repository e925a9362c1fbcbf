"""The base installation: what its packages suffice for, and which extra is named where they do not."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from diagcot.extras import MODULES, missing_module
from tests import documented

ROOT = Path(__file__).resolve().parents[3]
# Runs `diagcot` where no module of an extra can be imported.
BLOCKED = """
import importlib.abc, sys
names = set({names})
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
{code}
"""
OTHERS = {"cloudpickle", "RaTEScore"}  # submitit brings the first; users install the others themselves
MAIN = "from diagcot.cli.main import main\nsys.exit(main(sys.argv[1:]))"


def project() -> dict[str, list[str]]:
    """Distributions of the base ("") and of each extra, without those of the extras that it includes."""
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {"": about["dependencies"], **about["optional-dependencies"]}
    return {name: [re.split(r"[\[<>=~ ]", one)[0].lower() for one in lines] for name, lines in listed.items()}


def run(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    names = [name for modules in MODULES.values() for name in modules]
    program = BLOCKED.format(names=names, code=code)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plan", "--recipe", "tiny", "--cluster", "laptop"],
        ["submit", "--recipe", "diagcot-7b", "--cluster", "example", "--dry"],
    ],
    ids=lambda words: words[0],
)
def test_it_plans(words: list[str]) -> None:
    done = run(MAIN, *words, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_it_runs_a_pipeline_and_shows_where_it_stands(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from diagcot.jobs import Pipeline\n"
        "from tests import chains\n"
        "roots = {name: name for name in ('logs', 'shards', 'models')}\n"
        "flow = Pipeline('run', chains.cluster('debug', roots=roots), Path.cwd())\n"
        "flow.stage('first', 'tests.kinds.count', ['a', 'b'], 'small')\n"
        "flow.submit()\n" + MAIN
    )
    done = run(code, "status", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "logs" / "run" / "first" / "summary.json").read_text())["state"] == "done"


def test_the_documented_pipeline_runs_and_is_watched(tmp_path: Path) -> None:
    """words.py of docs/jobs.md, where nothing but the base installation can be imported."""
    documented.pipeline(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\nexecutor: debug\nresource_profiles: {small: {}}\n")
    code = (
        "import runpy\nrunpy.run_path('words.py', run_name='__main__')\nsys.argv[1:] = ['status', '--run', 'words']\n"
    )
    done = run(code + MAIN, "mine.yaml", *(f"{name}.txt" for name in documented.TEXTS), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    total = json.loads((tmp_path / "shards" / "words" / "total" / "total.json").read_text())
    assert total["lungs"] == 2 and "total" in done.stdout and "done" in done.stdout


def test_what_is_missing_is_named_with_its_extra(tmp_path: Path) -> None:
    shard = tmp_path / "00000.h5"
    shard.touch()
    done = run(MAIN, "shards", "info", str(shard), cwd=tmp_path)
    assert done.returncode == 1 and "pip install diagcot[data]" in done.stderr and "Traceback" not in done.stderr
    assert missing_module(ModuleNotFoundError("no such", name="of_somebody_else")) is None


def test_every_module_that_is_imported_belongs_to_the_base_or_an_extra() -> None:
    imported = set()
    for path in [*(ROOT / "diagcot").rglob("*.py"), *(ROOT / "launchers").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    imported -= {"diagcot", "launchers", "tests", *sys.stdlib_module_names}
    extra_of = {module: extra for extra, modules in MODULES.items() for module in modules}
    listed, distributions = project(), packages_distributions()
    in_base = {module for module in imported if {d.lower() for d in distributions.get(module, [])} & set(listed[""])}
    assert imported - in_base - set(extra_of) - OTHERS == set()
    for module, extra in extra_of.items():
        for name in extra.split("] or diagcot["):
            theirs = {d.lower() for d in distributions.get(module, [])} | {module}
            assert theirs & {*listed[name], "markupsafe"}, f"{module} is not brought by the extra {name}"
