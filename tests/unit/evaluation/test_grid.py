"""The evaluation's recipe changed after its run was planned: what is added, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from diagcot.cli import main as cli
from diagcot.evaluation import aggregate as aggregate_work
from diagcot.jobs import Pipeline, Plan, Unit, UserError
from diagcot.jobs.plans.plan import read
from launchers.chain import Chain, open_chain
from launchers.evaluation import aggregate
from tests import chains
from tests.unit.evaluation.evaluated_run import write_predictions, write_shard

SHAPE = {
    "hidden": 64,
    "layers": 1,
    "heads": 4,
    "kv_heads": 2,
    "vision_depth": 1,
    "vision_hidden": 32,
    "vocabulary": 500,
}


class Desk:
    """A person's recipe and cluster; `stages` are edited and written again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        roots = {name: str(root / name) for name in ("logs", "shards", "models")}
        sizes: dict[str, Any] = {name: {} for name in ("cpu", "small", "server", "train")}
        cluster = {"name": "here", "executor": "debug", "roots": roots, "resource_profiles": sizes}
        (root / "here.yaml").write_text(json.dumps(cluster))
        sources = [{"kind": "mimic_cxr", "input": "tree"}]
        shard = {"kind": "shard", "stage": 0, "inputs": {"tree": "phantoms"}}
        self.stages: dict[str, Any] = {
            "phantoms": {"kind": "phantoms", "stage": 0, "settings": {"studies": 8}},
            "shard": shard | {"settings": {"sources": sources, "shards": 2}},
            "one": self.model(1),
            "two": self.model(2),
            "evaluate": {
                "kind": "evaluate",
                "stage": "eval",
                "inputs": {"models": ["one", "two"], "shards": ["shard"]},
                "settings": {"tasks": ["report"], "samples_per_shard": 4, "max_tokens": {"report": 50}},
            },
            "table": {"kind": "aggregate", "stage": "eval", "inputs": {"predictions": "evaluate"}, "settings": {}},
        }

    @staticmethod
    def model(seed: int) -> dict[str, Any]:
        return {
            "kind": "model",
            "stage": 1,
            "settings": {"family": "qwen2_5_vl", "tiny": SHAPE | {"hidden": 64 * seed}},
        }

    def before(self, name: str, **stages: Any) -> None:
        """Put further stages before the stage `name`."""
        at = list(self.stages).index(name)
        rows = list(self.stages.items())
        self.stages = dict([*rows[:at], *stages.items(), *rows[at:]])

    def chain(self) -> Chain:
        recipe = {"name": "mine", "seed": 3, "stages": [{"name": name} | rest for name, rest in self.stages.items()]}
        (self.root / "mine.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        return open_chain(str(self.root / "mine.yaml"), str(self.root / "here.yaml"), "trial")

    def write(self) -> dict[str, Plan]:
        return {plan.stage: read(plan.path) for plan in self.chain().write()}

    def refused(self) -> str:
        with pytest.raises(UserError) as error:
            self.chain().write()
        return str(error.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.write()
    return made


def test_the_same_recipe_again_adds_nothing(desk: Desk) -> None:
    plans = desk.write()
    assert not desk.chain().pipeline.growth() and not plans["evaluate"].grown and len(plans["table"].keys) == 1


def test_a_finished_table_is_made_again_with_other_settings_and_nothing_else_is(desk: Desk) -> None:
    desk.stages["table"]["settings"] = {"draws": 2000, "examples": 2}
    plans = desk.write()
    assert len(plans["table"].keys) == 2 and plans["table"].open_tasks() == [1]
    assert plans["table"].settings["draws"] == 2000 and not plans["evaluate"].grown
    desk.stages["table"]["settings"]["r2gen"] = True
    assert len(desk.write()["table"].keys) == 3


def test_a_model_a_task_a_source_and_a_judge_are_added_one_after_the_other(desk: Desk) -> None:
    evaluate, tables = desk.stages["evaluate"], []

    def added() -> list[str]:
        plans = desk.write()
        tables.append(plans["table"].keys[-1])
        assert len(plans["table"].keys) == len(tables) + 1 and plans["table"].open_tasks() == [len(tables)]
        newest = plans["evaluate"].segments[-1]
        return plans["evaluate"].keys[-newest.units :]

    desk.before("evaluate", three=desk.model(3))
    evaluate["inputs"]["models"] = ["one", "three", "two"]
    assert added() == ["three.report.shard.00000", "three.report.shard.00001"]
    table = read(desk.root / "logs" / "trial" / "table")
    assert table.units[-1].params["models"] == ["one", "three", "two"]  # in the recipe's order

    evaluate["settings"]["tasks"] = ["open", "report"]
    evaluate["settings"]["max_tokens"] = {"report": 50, "open": 20}
    assert added() == [f"{model}.open.shard.0000{k}" for model in ("one", "three", "two") for k in range(2)]

    others = desk.stages["phantoms"] | {"settings": {"studies": 9}}
    desk.before("evaluate", others=others, more=desk.stages["shard"] | {"inputs": {"tree": "others"}})
    evaluate["inputs"]["shards"] = ["more", "shard"]
    assert len(added()) == 3 * 2 * 2 and len(set(tables)) == 3

    desk.before(
        "table", judge={"kind": "judge", "stage": "eval", "inputs": {"predictions": "evaluate", "model": "one"}}
    )
    desk.stages["table"]["inputs"]["verdicts"] = "judge"
    plans = desk.write()
    assert len(plans["judge"].units) == 3 * 2 * 2 and not plans["judge"].grown
    assert plans["table"].keys[-1] not in tables and set(plans["table"].inputs) == {"predictions", "verdicts"}
    assert [edge.stage for edge in plans["table"].after] == ["evaluate", "judge"]

    reads = {"kind": "clinical", "stage": "eval", "inputs": {"predictions": "evaluate"}}
    desk.before("table", clinical=reads, green=reads | {"kind": "green"})
    desk.stages["table"]["inputs"]["clinical"] = ["clinical", "green"]
    assert desk.write()["table"].keys[-1] != plans["table"].keys[-1]

    desk.before("evaluate", four=desk.model(4))
    evaluate["inputs"]["models"].append("four")
    plans = desk.write()
    assert plans["evaluate"].segments[-1].units == 2 * 2 * 2
    assert [plans[name].segments[-1].units for name in ("judge", "clinical", "green")] == [2 * 2] * 3
    assert len(set(plans["evaluate"].keys)) == len(plans["evaluate"].keys) == 4 * 2 * 2 * 2


def test_what_would_change_an_answer_is_refused(desk: Desk) -> None:
    evaluate = desk.stages["evaluate"]
    desk.before("evaluate", three=desk.model(3))
    evaluate["inputs"]["models"].append("three")
    for changed, said in (
        ({"max_tokens": {"report": 60}}, "unit one.report.shard.00000"),
        ({"samples_per_shard": 5}, "settings.samples_per_shard: 4 in the run, 5 now"),
        ({"views": "study"}, "settings.views"),
        (
            {"tasks": ["grounding"], "max_tokens": {"grounding": 20}},
            "unit one.report.shard.00000: in the run, absent now",
        ),
    ):
        before = evaluate["settings"]
        evaluate["settings"] = before | changed
        assert said in desk.refused()
        evaluate["settings"] = before
    evaluate["inputs"]["models"] = ["one", "three"]
    assert "inputs.models: one, two in the run, one, three now" in desk.refused()
    evaluate["inputs"]["models"] = ["one", "two", "three"]
    desk.stages["shard"]["settings"]["shards"] = 3
    assert "stage shard" in desk.refused()  # what models were trained on stays what it was
    assert (
        not (desk.root / "logs" / "trial" / "grown").exists() and not (desk.root / "logs" / "trial" / "three").exists()
    )


def test_a_plan_says_what_a_submission_would_add_or_why_it_cannot(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.before("evaluate", three=desk.model(3))
    desk.stages["evaluate"]["inputs"]["models"].append("three")
    desk.chain()
    asked = [
        "plan",
        "--recipe",
        str(desk.root / "mine.yaml"),
        "--cluster",
        str(desk.root / "here.yaml"),
        "--run",
        "trial",
    ]
    cli.main(asked)
    said = " ".join(capsys.readouterr().out.split())
    assert "run trial would grow: three: joins the run" in said and "table: made again" in said
    assert "run trial would grow: evaluate: 2 further units in 1 task" in said
    assert not (desk.root / "logs" / "trial" / "grown").exists()
    desk.stages["evaluate"]["settings"]["samples_per_shard"] = 5
    desk.chain()
    cli.main(asked)
    assert "settings.samples_per_shard: 4 in the run, 5 now" in " ".join(capsys.readouterr().out.split())


def test_the_table_and_the_report_show_all_models_and_old_predictions_are_not_touched(tmp_path: Path) -> None:
    ready, shards = tmp_path / "ready", tmp_path / "shards"
    shard = write_shard(shards / "run" / "shard" / "00000.h5", 6, size=48)
    write_predictions(ready, shard, shards, questions=("open",))

    def submit(*models: str) -> dict[str, Any]:
        on = chains.cluster("debug", roots={name: str(tmp_path / name) for name in ("logs", "shards", "models")})
        flow = Pipeline("run", on, tmp_path, code=[chains.ROOT / "tests"], keep={"recipe.yaml": f"{models}\n"})
        units = [Unit(f"{model}.open", {"from": str(ready / f"{model}.open.00000.jsonl")}) for model in models]
        grid = flow.stage("evaluate", "tests.kinds.copied:run", units, "small", grows="units")
        flow.stage(
            "table", aggregate.KIND.work, [Unit(f"metrics.{len(models)}", {"models": list(models), "starts": {}})], "small",
            settings={"draws": 100, "examples": 1}, inputs={"predictions": [grid]}, product="report", grows="anew",
        )  # fmt: skip
        flow.submit()
        found: dict[str, Any] = json.loads((flow.run_dir / "metrics.json").read_text())
        return found

    before = submit("base", "grpo")
    run = tmp_path / "logs" / "run"
    old = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (shards / "run" / "evaluate").iterdir()}
    after = submit("base", "teacher", "grpo")
    assert (before["models"], after["models"]) == (["base", "grpo"], ["base", "teacher", "grpo"])
    (kept,) = (run / aggregate_work.EARLIER).iterdir()
    assert json.loads((kept / "metrics.json").read_text()) == before and (kept / "report.html").is_file()
    scores = [{row["model"]: row["scores"]["open_f1"]["value"] for row in one["rows"]} for one in (before, after)]
    assert scores[0] == {name: value for name, value in scores[1].items() if name != "teacher"} and len(scores[1]) == 3
    now = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (shards / "run" / "evaluate").iterdir()}
    assert {name: now[name] for name in old} == old and len(now) == 3
    page = (run / "report.html").read_text()
    assert "teacher" in page and "<td>3 / 3</td>" in page and "<td>2 / 2</td>" in page  # its own unit is done by then
    assert "recipe, grown 1" in page and ">sha256 " in page
    digests = read(run / "table")
    manifests = [json.loads((digests.path / "done" / f"{key}.json").read_text()) for key in digests.keys]
    assert manifests[0]["superseded"] == "metrics.3" and set(manifests[0]["was"]["outputs"]) == set(
        manifests[1]["outputs"]
    )
