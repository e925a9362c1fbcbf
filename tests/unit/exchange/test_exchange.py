"""Conversations of other suites become shards and samples, and come back out the same."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli import main as cli
from diagcot.data.errors import DataError
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.study import MIMIC_CXR
from diagcot.exchange import answers, importing, tables
from diagcot.exchange.conversations import read
from diagcot.exchange.export import FORMATS, export
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard
from diagcot.shards.audit.seen import SHARDS
from diagcot.tasks.predictions import Prediction
from diagcot.tasks.samples import Sample, read_samples
from launchers import registry
from launchers.chain import open_chain
from tests.unit.evaluation.evaluated_run import write_shard

UNIT = Unit("00000")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four drawn images: two of a study of MIMIC-CXR's layout, one of another study of that patient, one of nobody."""
    folder = tmp_path_factory.mktemp("images")
    names = ("p10/p10000001/s50000001/a.jpg", "p10/p10000001/s50000001/b.jpg", "p10/p10000001/s50000002/c.jpg", "d.jpg")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw(name, Findings.from_tags(("Cardiomegaly",)), "PA", 64, 1).jpeg())
    return folder


A, B, C, D = "p10/p10000001/s50000001/a.jpg", "p10/p10000001/s50000001/b.jpg", "p10/p10000001/s50000002/c.jpg", "d.jpg"


def problem(question: str, *images: str, **more: str) -> dict[str, Any]:
    return {"problem": question, "answer": f"answer to {question}".replace("<image>", ""), "images": [*images], **more}


def imported(root: Path, images: Path, rows: list[Any], **settings: Any) -> tuple[Context, Result]:
    """The stage that imports these rows, as it ran."""
    (root / "in").mkdir(parents=True, exist_ok=True)
    (root / "in" / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    file = {"path": str(root / "in" / "rows.jsonl"), "images": str(images)}
    return stage(root, [file], **settings)


def stage(root: Path, files: list[dict[str, Any]], **settings: Any) -> tuple[Context, Result]:
    ctx = context(root, {"files": files} | settings, stage="import")
    result = run_unit(importing, UNIT, ctx)
    assert result is not None
    return ctx, result


def samples(ctx: Context) -> list[Sample]:
    return [
        s
        for path in (ctx.output / "00000.jsonl", ctx.output / "test/00000.jsonl")
        if path.is_file()
        for s in read_samples(path)
    ]


def seen(ctx: Context) -> dict[str, Any]:
    """Sample id -> all that a sample says, with its images as bytes in place of references."""
    shard = Shard(ctx.output / "00000.h5")
    return {
        s.id: (s.messages, s.study, s.meta, s.task, s.dataset, [shard.jpeg(ref.row) for ref in s.images])
        for s in samples(ctx)
    }


def test_rows_become_samples_of_one_shard(tmp_path: Path, images: Path) -> None:
    rows = [
        problem("<image>x", A),
        problem("<image>and<image>y", A, B),
        problem("<image>z", C, task="report"),
        problem("no image"),
    ]
    ctx, result = imported(tmp_path, images, [*rows, rows[0]])
    shard = Shard(ctx.output / "00000.h5")
    assert (len(shard), shard.images, result.counts["samples"]) == (2, 3, 4)  # `A` is stored once
    assert [study.key for study in map(shard.study, range(2))] == ["imported/s50000001", "imported/s50000002"]
    assert {shard.study(i).patient for i in range(2)} == {"p10000001"}
    assert [shard.image(row).origin for row in range(3)] == [f"{MIMIC_CXR}/{name}" for name in "abc"]
    both = next(sample for sample in samples(ctx) if len(sample.images) == 2)
    assert both.messages == (("user", "<image>and<image>y"), ("assistant", "answer to andy"))
    assert [ref.shard for ref in both.images] == ["test/import/00000.h5"] * 2
    account = result.counts["sources"]["imported"]
    assert account["read"] == {"rows": 5, "images": 3, "studies": 2}
    assert account["asked"] == {"rows": {importing.REPEATED: 1}} and not account["lost"]
    assert all(sample.meta["phantom"] == bool(sample.images) for sample in samples(ctx))


def test_a_patient_has_one_split_and_the_test_is_kept_apart(tmp_path: Path, images: Path) -> None:
    rows = [
        problem("<image>x", A, split="train"),
        problem("<image>z", C, split="test"),
        problem("<image>d", D, split="val"),
    ]
    ctx, result = imported(tmp_path, images, rows)
    assert {s.prompt: s.meta["split"] for s in samples(ctx)} == {
        "<image>x": "test",
        "<image>z": "test",
        "<image>d": "validate",
    }
    assert result.counts["sources"]["imported"]["moved"] == {"train to test": 1}
    assert [sample.prompt for sample in read_samples(ctx.output / "00000.jsonl")] == ["<image>d"]


def test_splits_by_hash_are_those_of_the_patient(tmp_path: Path, images: Path) -> None:
    rows = [problem(f"<image>{place}", image) for place, image in enumerate((A, B, C, D))]
    ctx, _ = imported(tmp_path, images, rows, held_out={"test": 0.5})
    splits = {s.meta["patient"]: s.meta["split"] for s in samples(ctx)}
    assert len({(s.meta["patient"], s.meta["split"]) for s in samples(ctx)}) == len(splits) == 2


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path, images: Path) -> None:
    rows = [
        problem("<image>good", A),
        "no object",
        {"text": "no conversation"},
        problem("no mark but two", A, B) | {"answer": " "},
        problem("<image><image>", A),
        problem("<image>web", "https://example.org/x.jpg"),
        problem("<image>gone", "gone.jpg"),
        problem("<image>gone too", "gone.jpg"),
        problem("odd", split="some"),
        problem("one", id="same", study="s"),
        problem("two", id="same", study="s"),
    ]
    (images / "text.jpg").write_text("no image")
    rows.append(problem("<image>no image", "text.jpg"))
    with pytest.raises(DataError, match=r"max_lost: 0\.05.*10 of 12 rows"):
        imported(tmp_path / "strict", images, rows)
    _, result = imported(tmp_path, images, rows, max_lost=1.0)
    account = result.counts["sources"]["imported"]
    assert account["lost"]["rows"] == {
        "not an object": 1,
        "has neither conversations, messages, problem, prompt, nor instruction and output": 1,
        "has an empty turn": 1,
        "has 2 <image> marks and 1 images": 1,
        "names an image on the web, which is not fetched: download it and name the file": 1,
        "an image: the file does not exist": 2,
        "an image: it is not a readable image": 1,
        "its split is none of train, validate and test": 1,
        importing.SAME_ID: 1,
    }
    assert account["lost"]["images"] == {"the file does not exist": 1, "it is not a readable image": 1}
    assert account["examples"]["not an object"] == ["rows.jsonl:2"]
    assert account["examples"]["the file does not exist"] == ["gone.jpg"]


def test_control_tokens_in_texts_are_text() -> None:
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a <image> <|im_end|>"}]},
            {"role": "assistant", "content": "<image>"},
        ]
    }
    assert read(row).turns == (("user", "a < image> < |im_end|>"), ("assistant", "< image>"))
    assert read(problem("<image>q", "x")).images[0].path == "x"
    assert read(problem("q", "x")).turns[0] == ("user", "<image>q")  # no mark at all: before the question


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_exported_is_imported_the_same(name: str, tmp_path: Path, images: Path) -> None:
    rows = [
        problem("<image>x", A, task="report", id="first", split="train"),
        problem("<image>and<image>y", A, B, split="train", study="own", patient="someone"),
        problem("<image>d", D, dataset="other"),
        problem("no image"),
    ]
    if name != "easyr1":  # which holds one question and its answer
        turns = (
            ("system", "Be brief."),
            ("user", "<image>one"),
            ("assistant", "1"),
            ("user", "two"),
            ("assistant", "2"),
        )
        rows.append({"messages": [{"role": role, "content": text} for role, text in turns], "images": [D]})
    ctx, _ = imported(tmp_path, images, rows)
    out = tmp_path / "out"
    count, pictures, left_out = export([ctx.output], name, out)
    assert (count, pictures, left_out) == (len(rows), 3, {})
    assert out.stat().st_mode & 0o77 == 0
    path = out if FORMATS[name].info else out / FORMATS[name].file
    again, result = stage(tmp_path / "again", [{"path": str(path)}])
    assert not result.counts["sources"]["imported"]["lost"]
    before, after = seen(ctx), seen(again)
    assert before.keys() == after.keys()
    assert before == after


def test_one_question_formats_leave_conversations_out(tmp_path: Path, images: Path) -> None:
    turns = [("user", "<image>one"), ("assistant", "1"), ("user", "two"), ("assistant", "2")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns], "images": [D]}
    ctx, _ = imported(tmp_path, images, [talk, problem("<image>x", A)])
    count, pictures, left_out = export([ctx.output], "easyr1", tmp_path / "out")
    assert (count, pictures, left_out.total()) == (1, 1, 1)
    with pytest.raises(UserError, match="exists; choose a new folder"):
        export([ctx.output], "easyr1", tmp_path / "out")
    with pytest.raises(UserError, match="nothing to write of the split test"):
        export([ctx.output], "easyr1", tmp_path / "none", split="test")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "none"))) == []
    with pytest.raises(UserError, match="did you mean 'easyr1'"):
        export([ctx.output], "easyr", tmp_path / "x")


def test_datasets_reads_what_is_exported_and_is_read(tmp_path: Path, images: Path) -> None:
    import datasets

    ctx, _ = imported(tmp_path, images, [problem("<image>x", A), problem("no image")])
    export([ctx.output], "datasets", tmp_path / "out")
    loaded = datasets.load_from_disk(str(tmp_path / "out" / "data"))
    by_count = {len(row["images"]): row for row in loaded}
    assert by_count[1]["images"][0].size == (64, 64)
    assert by_count[1]["messages"][0]["content"][0]["type"] == "image" and by_count[0]["images"] == []
    columns = {"problem": ["<image>x"], "answer": ["y"], "images": [[str(images / A)]]}
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.Sequence(datasets.Image()),
        }
    )
    own = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": own, "test": own}).save_to_disk(str(tmp_path / "own"))
    _, result = stage(tmp_path / "again", [{"path": str(tmp_path / "own")}])
    assert result.counts["images"] == 1 and result.counts["sources"]["imported"]["read"]["rows"] == 2


def test_a_folder_of_llama_factory_names_its_columns_and_roles(tmp_path: Path, images: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "d.jpg").write_bytes((images / D).read_bytes())
    info = {
        "talk": {
            "file_name": "talk.json",
            "formatting": "sharegpt",
            "columns": {"messages": "dialogue", "images": "films"},
            "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "doctor", "assistant_tag": "model"},
        },
        "asked": {"file_name": "asked.json", "columns": {"prompt": "q", "response": "a"}},
        "chat": {"file_name": "chat.json", "formatting": "openai", "columns": {"messages": "messages"}},
        "hub": {"hf_hub_url": "somebody/something"},
    }
    talk = [
        {"dialogue": [{"who": "doctor", "what": "<image>see"}, {"who": "model", "what": "yes"}], "films": ["d.jpg"]}
    ]
    (folder / "talk.json").write_text(json.dumps(talk))
    (folder / "asked.json").write_text(json.dumps([{"q": "why", "a": "so"}]))
    chat = [{"messages": [{"role": "user", "content": "how"}, {"role": "assistant", "content": "thus"}]}]
    (folder / "chat.json").write_text(json.dumps(chat))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    ctx, _ = stage(tmp_path, [{"path": str(folder), "sets": ["talk", "asked", "chat"]}])
    assert sorted(s.messages for s in samples(ctx)) == [
        (("user", "<image>see"), ("assistant", "yes")),
        (("user", "how"), ("assistant", "thus")),
        (("user", "why"), ("assistant", "so")),
    ]
    with pytest.raises(DataError, match="hub has no file_name"):
        stage(tmp_path / "all", [{"path": str(folder)}])


def of_path(value: str) -> Callable[[Path], Any]:
    return lambda images: str(images / value)


@pytest.mark.parametrize(
    "value",
    [
        of_path(A),
        lambda images: f"file://{images / A}",
        lambda images: {"path": str(images / A)},
        lambda images: {"image": f"file://{images / A}"},
        lambda images: {"url": "data:image/jpeg;base64," + base64.b64encode((images / A).read_bytes()).decode()},
    ],
    ids=["path", "file", "object", "verl", "data"],
)
def test_ways_to_name_an_image(value: Callable[[Path], Any], tmp_path: Path, images: Path) -> None:
    ctx, result = imported(
        tmp_path, images, [problem("<image>x", A), {**problem("<image>y"), "images": [value(images)]}]
    )
    assert result.counts["samples"] == 2 and Shard(ctx.output / "00000.h5").images == 1


def test_own_names_of_columns(tmp_path: Path, images: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([{"question": "why", "gold": "so", "case": 7}]))
    columns = {"problem": "question", "answer": "gold", "patient": "case"}
    ctx, _ = stage(tmp_path, [{"path": str(tmp_path / "rows.json"), "columns": columns, "split": "validate"}])
    (sample,) = samples(ctx)
    assert (sample.answer, sample.meta["patient"], sample.meta["split"]) == ("so", "imported/7", "validate")


def test_a_row_may_have_several_references(tmp_path: Path) -> None:
    rows = [{"problem": "why", "answer": "so", "references": ["thus", "hence"]}, {"problem": "who", "answer": "he"}]
    (tmp_path / "rows.json").write_text(json.dumps([*rows, {"problem": "when", "answer": "now", "references": "then"}]))
    ctx, result = stage(tmp_path, [{"path": str(tmp_path / "rows.json"), "split": "test"}], max_lost=0.5)
    said = {s.answer: Prediction.of(s, "m", "thus", "stop", "test").references for s in samples(ctx)}
    assert said == {"so": ("so", "thus", "hence"), "he": ("he",)}
    assert "its references are not a list of texts" in json.dumps(result.counts)


def test_evaluation_knows_images_of_imports() -> None:
    kind = registry.find("import")
    assert kind is not None and kind.work in SHARDS


def test_the_verb_exports_shards_by_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "shards" / "run" / "shard" / "00000.h5", 3, size=48)
    folder, out = tmp_path / "shards" / "run" / "shard", tmp_path / "out"
    asked = ["export", "easyr1", str(folder), "--out", str(out), "--task", "report"]
    assert cli.main(asked) == 1 and "nothing to write of the split train" in capsys.readouterr().err
    assert cli.main([*asked, "--split", "test"]) == 0
    assert "6 samples, 6 images; only you can read" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "data.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and all(row["split"] == "test" and row["answer"].startswith("findings :") for row in rows)
    assert all((out / row["images"][0]).is_file() for row in rows)


def test_a_recipe_trains_and_evaluates_on_an_import(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(problem("why")))
    stages = [
        {"name": "mine", "kind": "import", "number": "0", "settings": {"files": [{"path": str(tmp_path / "rows.jsonl")}]}},
        {"name": "own", "kind": "sft", "number": "2", "inputs": {"model": "align", "samples": "mine"},
         "settings": {"trainable": ["merger"], "tasks": {}, "deepspeed": {"steps": 2}}},
        {"name": "test", "kind": "evaluate", "number": "eval", "inputs": {"models": "own", "shards": ["mine"]},
         "settings": {"tasks": ["report"]}},
    ]  # fmt: skip
    recipe = tmp_path / "with-own.yaml"
    recipe.write_text(json.dumps({"extends": "tiny", "name": "with-own", "add": stages}))
    chain = open_chain(str(recipe), "laptop", None)
    assert [unit.key for unit in chain.units_of("mine")] == ["00000"]
    assert [unit.key for unit in chain.units_of("test")] == ["own.report.mine.00000"]
    assert chain.plans and chain.notes() is not None and chain.storage()
    chain.check("mine")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"files to import are missing: .*rows\.jsonl does not exist"):
        open_chain(str(recipe), "laptop", None).check("mine")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"study": "s" * 201}, "its study has 201 bytes"),
        ({"patient": "a\nb"}, "its patient holds a control character"),
        ({"id": "x/" * 600}, "its id has 1,200 bytes"),
        *(
            ({name: "x\ud83d"}, f"its {name} holds half of a character")
            for name in ("id", "study", "patient", "task", "dataset")
        ),
        ({"answer": "x\ud83d"}, "a text holds half of a character"),
        ({"problem": "<image>\ude00"}, "a text holds half of a character"),
        ({"system": "\ud83d"}, "a text holds half of a character"),
        ({"references": ["x", "\ud83d"]}, "a text holds half of a character"),
        ({"images": ["x\ud83d.png"]}, "the path of an image holds half of a character"),
        ({"images": [{"bytes": b"x", "path": "a\nb"}]}, "the path of an image holds a control character"),
        ({"images": ["a\0.jpg"]}, "the path of an image holds a control character"),
        ({"images": ["x" * 300]}, "the path of an image has 300 bytes"),
        ({"images": ["file:///a%0A.jpg"]}, "the path of an image holds a control character"),
        ({"problem": None, "instruction": "a", "output": "b", "history": 7}, "are of other types than the form has"),
        ({"problem": None, "instruction": "a", "output": "b", "history": [7]}, "are of other types than the form has"),
        ({"problem": None, "prompt": "a", "answer": None, "reward_model": "b"}, "has an empty turn"),
        ({"problem": None, "conversations": 7}, "turns need from"),
        ({"problem": None, "messages": [{"role": [], "content": "a"}]}, "turns need role"),
        ({"problem": 7}, "a turn is neither a text nor a list of parts"),
        ({"images": [{"bytes": "text"}]}, "an image is neither a path nor bytes"),
    ],
)
def test_a_row_with_values_of_other_kinds_is_left_out_with_the_reason(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(problem("<image>seen?", "a.jpg") | more)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b"[" * 100_000),
        ("rows.parquet", b"PAR1" + bytes(100) + b"PAR1"),
        ("saved/state.json", b"[]"),
        ("saved/state.json", b'{"_data_files": 7}'),
        ("saved/state.json", b'{"_data_files": [{}]}'),
        ("saved/dataset_dict.json", b'{"splits": 7}'),
        ("saved/dataset_dict.json", b"{}"),
        ("saved/dataset_info.json", b"[" * 100_000),
        ("saved/dataset_info.json", b'{"a": 7}'),
        ("saved/dataset_info.json", b'{"a": {"file_name": 7}}'),
        ("saved/dataset_info.json", b'{"a": {"file_name": "b.json", "columns": []}}'),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / name)):
        list(tables.rows(tmp_path / name.split("/")[0]))


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_byte_order_mark_is_taken_and_another_encoding_is_named(tmp_path: Path, ending: str) -> None:
    rows = [{"id": "a", "text": "b"}, {"id": "c", "text": "d"}]
    text = json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / f"rows{ending}"
    path.write_text(text, encoding="utf-8-sig")
    assert [row for _, row in tables.rows(path)] == rows
    assert [found.text for found in answers.read(path, {}) if not isinstance(found, str)] == ["b", "d"]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        path.write_bytes(text.encode(encoding))
        for read_file in (tables.rows, lambda path: answers.read(path, {})):
            with pytest.raises(DataError, match=rf"rows{ending} is {encoding[:6].upper()}: save it as UTF-8"):
                list(read_file(path))


def test_an_answer_with_half_of_a_character_is_one_lost_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "text": "x\\ud83d"}\n{"id": "b", "text": "y"}\n')
    first, second = answers.read(path, {})
    assert first == "rows.jsonl:1: holds half of a character, which is no text in UTF-8"
    assert isinstance(second, answers.ForeignAnswer) and second.text == "y"


def test_a_line_of_another_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"[" * 100_000 + b"\n{}\n")
    assert list(tables.rows(tmp_path / "a.jsonl")) == [("a.jsonl:1", None), ("a.jsonl:2", {})]
    (tmp_path / "a.csv").write_text("study,text\n1," + "x" * (17 << 20) + "\n")
    with pytest.raises(DataError, match=r"a\.csv:\d+: not a row of a table"):
        list(answers.read(tmp_path / "a.csv", {}))
