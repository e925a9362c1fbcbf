"""What the how-to pages say is done as they say it."""

import inspect
import re
from pathlib import Path

import yaml

from diagcot.evaluation.settings import AggregateSettings
from diagcot.training.config.grpo_settings import GrpoSettings
from diagcot.training.families import FAMILIES, Family
from tests import pages


def test_add_a_reward(tmp_path: Path) -> None:
    assert pages.write("how-to/add-a-reward.md", tmp_path) == [
        "brevity.py",
        "recipe-part.yaml",
        "mixed-part.yaml",
        "test_brevity.py",
    ]
    settings = GrpoSettings.model_validate(yaml.safe_load((tmp_path / "recipe-part.yaml").read_text()))
    assert settings.reward.name == "/path/to/brevity.py:brevity"
    settings = GrpoSettings.model_validate(yaml.safe_load((tmp_path / "mixed-part.yaml").read_text()))
    assert settings.reward.own == {"brevity.brevity": f"{Path.cwd()}/brevity.py:brevity"}
    pages.run_tests(tmp_path, "test_brevity.py")


def test_add_a_metric(tmp_path: Path) -> None:
    assert pages.write("how-to/add-a-metric.md", tmp_path) == ["brevity.py", "recipe-part.yaml", "test_brevity.py"]
    (metric,) = AggregateSettings.model_validate(yaml.safe_load((tmp_path / "recipe-part.yaml").read_text())).metrics
    assert (metric.column, metric.heading, metric.better) == ("brevity.words_per_word", "words per word", "lower")
    pages.run_tests(tmp_path, "test_brevity.py")


def test_add_a_kind_of_stage(tmp_path: Path) -> None:
    *_, recipe, test = pages.write("how-to/add-a-kind-of-stage.md", pages.checkout(tmp_path))
    assert (recipe, test) == ("lengths.yaml", "test_lengths.py")
    pages.run_tests(tmp_path, test)


def test_add_a_collection(tmp_path: Path) -> None:
    *names, test = pages.write("how-to/add-a-collection.md", pages.checkout(tmp_path))
    assert names == ["clinic/images.csv", "clinic/boxes.csv", "clinic/clinic.yaml", "clinic.yaml"]
    pages.run_tests(tmp_path, test)


def test_add_a_model_family(tmp_path: Path) -> None:
    page = (pages.ROOT / "docs" / "how-to" / "add-a-model-family.md").read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    names = [name for cell in cells for name in re.findall("`([^`]+)`", cell)]
    modules = {name for name in names if name.endswith(".py")}
    folder = pages.ROOT / "diagcot" / "training" / "families"
    assert modules == {Path(inspect.getfile(type(family))).name for family in FAMILIES.values()}
    assert all((folder / module).is_file() for module in modules)
    known = {*dir(Family), *Family.__annotations__}
    assert [name for name in names if name not in known | modules] == []
    assert pages.write("how-to/add-a-model-family.md", tmp_path) == ["test_family.py"]
    pages.run_tests(tmp_path, "test_family.py")
