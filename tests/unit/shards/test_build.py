"""The kinds `phantoms` and `shard`, and the samples made from their shards, as a worker runs them."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from diagcot.data.errors import DataError, ImageError
from diagcot.data.phantom import build as phantoms
from diagcot.data.phantom.drawing import draw
from diagcot.data.phantom.findings import Findings
from diagcot.data.pixels import convert
from diagcot.data.readers import fetch
from diagcot.data.study import Box, Image, Study
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import Shard, build, shard_paths
from diagcot.shards.settings import BuildSettings, check
from diagcot.shards.verify import faults
from diagcot.tasks import prompts
from diagcot.tasks.diagnosis import classification_samples, grounding_samples, report_samples
from diagcot.tasks.samples import Sample
from launchers.data import phantoms as phantoms_launcher
from launchers.data import shard as shard_launcher
from tests import stages

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
REPORTS, IMAGES = SHARED / "openi_reports", SHARED / "openi_images"
needs_iu = pytest.mark.skipif(not (REPORTS.is_dir() and IMAGES.is_dir()), reason="no ../shared/data")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output root of a stage of phantoms with 40 studies of 64 pixels."""
    ctx = context(tmp_path_factory.mktemp("run"), {"studies": 40, "size": 64}, stage="phantoms")
    result = run_unit(phantoms, Unit("tree"), ctx)
    assert result is not None and result.counts == {"studies": 40, "images": 80}
    return ctx.output


def settings(**changes: Any) -> dict[str, Any]:
    return {"sources": [{"kind": "mimic_cxr", "input": "tree"}], "shards": 2, "image_size": 64} | changes


def shard_context(root: Path, tree: Path, **changes: Any) -> Context:
    return context(root, settings(**changes), stage="shard", inputs={"tree": [str(tree)]})


def built(ctx: Context) -> list[Result | None]:
    return [run_unit(build, Unit(f"{part:05d}"), ctx) for part in range(ctx.settings["shards"])]


@pytest.fixture(scope="module")
def shards(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    ctx = shard_context(tmp_path_factory.mktemp("run"), tree)
    built(ctx)
    return [Shard(path) for path in shard_paths(ctx.output)]


def test_all_studies_once_and_no_patient_in_two_shards(shards: list[Shard]) -> None:
    studies = [[shard.study(i) for i in range(len(shard))] for shard in shards]
    assert sum(map(len, studies)) == 40
    assert not {s.patient for s in studies[0]} & {s.patient for s in studies[1]}
    assert abs(len(studies[0]) - len(studies[1])) <= 2
    for study in studies[0] + studies[1]:
        assert all(image.phantom for image in study.images)
        assert (study.findings, study.impression) == Findings.from_tags(study.tags).report()
    assert [fault for shard in shards for fault in faults(shard.path)] == []


def test_a_shard_is_the_same_bytes_again(shards: list[Shard], tree: Path, tmp_path: Path) -> None:
    ctx = shard_context(tmp_path, tree)
    run_unit(build, Unit("00001"), ctx)
    assert (ctx.output / "00001.h5").read_bytes() == shards[1].path.read_bytes()


def test_provenance_names_sources_but_no_places(shards: list[Shard], tree: Path) -> None:
    attrs = shards[0].attrs
    (source,) = json.loads(attrs["sources"])
    assert source["dataset"] == "phantom" and len(source["patients_sha256"]) == 64
    assert str(tree) not in str(attrs)
    assert (attrs["part"], attrs["parts"], attrs["image_size"]) == (0, 2, 64)


def test_splits_limits_and_frontals(tree: Path, tmp_path: Path) -> None:
    source = {"kind": "mimic_cxr", "input": "tree", "splits": ["train"], "max_studies": 7, "frontal_only": True}
    ctx = shard_context(tmp_path, tree, sources=[source])
    assert sum(result.counts["studies"] for result in built(ctx) if result) == 7
    for path in shard_paths(ctx.output):
        shard = Shard(path)
        assert {shard.split(i) for i in range(len(shard))} <= {"train"}
        assert {shard.image(row).view for row in range(shard.images)} <= {"PA"}


def spoilt(tree: Path, to: Path) -> Path:
    """A copy of the tree with one torn image and one image missing."""
    shutil.copytree(tree, to)
    first, second, *_ = sorted((to / "tree" / "files").rglob("*.jpg"))
    first.write_bytes(first.read_bytes()[:500])
    second.unlink()
    return to


def test_bad_images_are_named_counted_and_skipped(tree: Path, tmp_path: Path) -> None:
    ctx = shard_context(tmp_path, spoilt(tree, tmp_path / "bad"), shards=1)
    (result,) = built(ctx)
    assert result is not None
    assert (result.counts["bad_images"], result.counts["images"]) == (2, 78)
    events = [json.loads(line) for line in (ctx.stage_dir / "events.jsonl").read_text().splitlines()]
    told = [event["what"] for event in events if event["event"] == "bad_image"]
    assert len(told) == 2
    assert any("not a readable image" in what for what in told) and any("does not exist" in what for what in told)
    assert all("phantom/5" in what and ".jpg" in what for what in told)
    left_out = Shard(ctx.output / "00000.h5").left_out()
    assert [f"{study}/{image}" for study, image, _ in left_out] == [what.split(" ")[0] for what in told]
    assert all(
        what.endswith(reason) and str(tree) not in reason for what, (*_, reason) in zip(told, left_out, strict=True)
    )


def test_an_interrupted_unit_goes_on_where_it_was(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a warning after some studies, killed after more, then finished: the bytes of one that was left alone."""
    spoilt(tree, tmp_path / "bad")
    alone = shard_context(tmp_path / "alone", tmp_path / "bad", shards=1)
    built(alone)
    converted: list[bytes] = []
    real = build.convert

    def counting(raw: bytes, *rest: Any) -> Any:
        converted.append(raw)
        return real(raw, *rest)

    monkeypatch.setattr(build, "convert", counting)
    warned = shard_context(tmp_path, tmp_path / "bad", shards=1)
    warned.on_progress = lambda row: warned.stop.set()
    assert built(warned) == [None]
    killed = shard_context(tmp_path, tmp_path / "bad", shards=1)

    def kill(row: dict[str, Any]) -> None:
        if row["done"] > 30:
            raise KeyboardInterrupt

    killed.on_progress = kill
    killed.progress = lambda done, *a, **b: kill({"done": done})  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        built(killed)
    torn = max(killed.workspace.glob("*.images"), key=lambda path: path.stat().st_size)
    torn.write_bytes(torn.read_bytes()[:-100])  # as a crashed node may leave it
    before = len(converted)
    ctx = shard_context(tmp_path, tmp_path / "bad", shards=1)
    (result,) = built(ctx)
    assert result is not None and 10 < result.counts["resumed"] < 40
    assert 80 - len(converted) + before > 20  # images that were not converted again
    assert (ctx.output / "00000.h5").read_bytes() == (alone.output / "00000.h5").read_bytes()
    assert list(ctx.workspace.iterdir()) == []


def test_images_of_other_settings_are_not_used(tree: Path, tmp_path: Path) -> None:
    ctx = shard_context(tmp_path, tree, shards=1)
    ctx.on_progress = lambda row: ctx.stop.set()
    assert built(ctx) == [None]
    (result,) = built(shard_context(tmp_path, tree, shards=1, image_size=32))
    assert result is not None and result.counts["resumed"] == 0


def test_bad_images_are_fatal_when_asked(tree: Path, tmp_path: Path) -> None:
    ctx = shard_context(tmp_path, spoilt(tree, tmp_path / "bad"), shards=1, on_bad_image="fail")
    with pytest.raises(ImageError, match="phantom/5"):
        built(ctx)
    assert list(ctx.output.iterdir()) == []


def test_a_stop_leaves_nothing_behind(tree: Path, tmp_path: Path) -> None:
    ctx = shard_context(tmp_path, tree)
    ctx.stop.set()
    assert run_unit(build, Unit("00000"), ctx) is None
    assert list(ctx.output.iterdir()) == []
    ctx = context(tmp_path, {"studies": 5, "size": 64}, stage="phantoms")
    ctx.stop.set()
    assert run_unit(phantoms, Unit("tree"), ctx) is None
    assert list(ctx.output.iterdir()) == []


def iu_reports(root: Path) -> Path:
    """An archive of ten reports without images in IU-Xray's form."""
    with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as out:
        for number in range(10):
            text = f"""<eCitation><uId id="CXR{number}"/><AbstractText Label="FINDINGS">No effusion.</AbstractText>
            <AbstractText Label="IMPRESSION">Cardiomegaly.</AbstractText>
            <MeSH><major>Cardiomegaly/mild</major></MeSH><parentImage id="CXR{number}_IM-1"/></eCitation>""".encode()
            member = tarfile.TarInfo(f"{number}.xml")
            member.size = len(text)
            out.addfile(member, io.BytesIO(text))
        out.addfile(tarfile.TarInfo("bad.xml"))
    return root


def test_phantoms_are_drawn_from_reports_and_mixed_in(tree: Path, tmp_path: Path) -> None:
    iu: dict[str, Any] = {
        "kind": "iu_xray",
        "path": str(iu_reports(tmp_path)),
        "images": "",
        "phantom_images": True,
        "max_studies": 7,
    }
    iu["max_lost"] = 0.1  # one of eleven reports is damaged
    ctx = shard_context(tmp_path, tree, sources=[*settings()["sources"], iu], shards=1)
    (result,) = built(ctx)
    shard = Shard(ctx.output / "00000.h5")
    assert result is not None
    assert (result.counts["studies"], result.counts["bad_reports"]) == (47, 1)
    mine = [study for i in range(len(shard)) if (study := shard.study(i)).dataset == "iu-xray"]
    assert len(mine) == 7
    for study in mine:
        assert study.labels["Cardiomegaly"] == 1 and study.labels["Pleural Effusion"] == 0
        assert [box.label for box in study.images[0].boxes] == ["Cardiomegaly"]
        assert all(image.phantom and "-phantom-" in image.id for image in study.images)


def test_decoding_at_a_dct_scale_is_as_good_as_decoding_all(tmp_path: Path) -> None:
    """At least 40 dB beside an image that was decoded whole; errors of JPEG of quality 90 itself are of that size."""
    drawn = Pillow.open(io.BytesIO(draw("1", Findings(), "PA", 512).jpeg())).convert("L").resize((1250, 1500))
    noise = np.random.default_rng(0).normal(0, 3, (1500, 1250))
    whole = Pillow.fromarray((np.asarray(drawn) + noise).clip(0, 255).astype(np.uint8))
    raw = io.BytesIO()
    whole.save(raw, "JPEG", quality=95)
    for size in (224, 336, 512, 740):
        image = Pillow.open(io.BytesIO(convert(raw.getvalue(), size, 95).data))
        best = Pillow.open(raw).convert("L").resize(image.size, Pillow.Resampling.LANCZOS)
        error = np.mean((np.asarray(image, float) - np.asarray(best, float)) ** 2)
        assert 10 * np.log10(255**2 / error) > 40, size


def test_missing_data_is_reported_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IU_XRAY_DIR", raising=False)
    (tmp_path / "files").mkdir()
    sources = [
        {"kind": "mimic_cxr", "path": str(tmp_path)},
        {"kind": "iu_xray", "path": "no/such", "images": "$IU_XRAY_DIR"},
        {"kind": "mimic_cxr", "path": "$NOWHERE_SET/mimic"},
    ]
    with pytest.raises(UserError) as error:
        check(BuildSettings(sources=sources))  # type: ignore[arg-type]
    for word in ("metadata.csv.gz", "make data-iu", "IU_XRAY_DIR", "$NOWHERE_SET"):
        assert word in str(error.value)
    with pytest.raises(DataError, match="no input has the role 'tree'"):
        run_unit(build, Unit("00000"), context(tmp_path, settings()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": []},
        {"shards": 0},
        {"sources": [{"kind": "mimic_cxr"}]},
        {"sources": [{"kind": "mimic_cxr", "path": "a", "input": "b"}]},
        {"sources": [{"kind": "chexperts", "path": "a"}]},
        {"image_sise": 5},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        BuildSettings(**settings(**wrong))


def test_places_are_settled_at_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IU_XRAY_DIR", "/images")
    monkeypatch.delenv("R2GEN", raising=False)
    source = {"kind": "iu_xray", "path": "data/iu_xray", "images": "$IU_XRAY_DIR", "annotation": "$R2GEN/a.json"}
    (first,) = BuildSettings(**settings(sources=[source])).sources
    monkeypatch.setenv("IU_XRAY_DIR", "/elsewhere")
    (again,) = BuildSettings(**settings(sources=[first.model_dump(mode="json")])).sources
    assert again == first
    assert (first.path, first.images, first.annotation) == (str(fetch.PLACE), "/images", "$R2GEN/a.json")


def test_launchers_know_their_units() -> None:
    chain: Any = None
    built = stages.stage("shard", settings(shards=3), tree=["phantoms"])
    assert [u.key for u in shard_launcher.units(built, chain)] == ["00000", "00001", "00002"]
    assert [u.key for u in phantoms_launcher.units(stages.stage("phantoms", {}), chain)] == ["tree"]


def samples_of(shards: list[Shard], task: Any, **options: Any) -> list[Sample]:
    return [s for shard in shards for s in task(shard, f"run/{shard.path.name}", "train", **options)]


def test_report_samples(shards: list[Shard]) -> None:
    samples = samples_of(shards, report_samples)
    images = sum(len(s.rows(i)) for s in shards for i in range(len(s)) if s.split(i) == "train")
    assert len(samples) == images == len({sample.id for sample in samples})
    shard, sample = shards[0], samples[0]
    ref = sample.images[0]
    study = shard.study(shard.study_of(ref.row))
    assert ref.shard == "run/00000.h5"
    assert sample.id == f"{study.key}/{shard.image(ref.row).id}"
    assert sample.answer == prompts.report_answer(study.findings, study.impression)
    assert sample.meta["phantom"] is True and sample.meta["labels"] == study.labels
    assert Sample.from_json(sample.to_json()) == sample


def test_classification_samples(shards: list[Shard]) -> None:
    for sample in samples_of(shards, classification_samples):
        present = [name for name, value in sample.meta["labels"].items() if value == 1]
        assert sample.answer == "The label of this X-ray image is: " + ", ".join(present)


def test_grounding_samples_are_frontal_and_balanced(shards: list[Shard]) -> None:
    samples = samples_of(shards, grounding_samples, labels=["Cardiomegaly", "Lung Opacity"])
    assert len({sample.id for sample in samples}) == len(samples)
    assert {sample.meta["view"] for sample in samples} == {"PA"}
    for name in ("Cardiomegaly", "Lung Opacity"):
        mine = [sample for sample in samples if sample.meta["label"] == name]
        shown = [sample for sample in mine if sample.meta["boxes"]]
        assert 0 < len(mine) - len(shown) <= len(shown)
        assert all("<box>(" in sample.answer for sample in shown)
        assert all(s.answer == f"No {name.lower()} regions detected." for s in mine if not s.meta["boxes"])
    assert samples == samples_of(shards, grounding_samples, labels=["Cardiomegaly", "Lung Opacity"])
    assert all(s.meta["boxes"] for s in samples_of(shards, grounding_samples, negatives=0.0))


@pytest.mark.parametrize(("labels", "asked"), [({"Edema": 0}, True), ({"Edema": -1}, False), ({}, False)])
def test_a_real_image_without_boxes_is_asked_about_what_is_known_to_be_absent(
    labels: dict[str, int], asked: bool
) -> None:
    boxed = Image("a", "PA", boxes=(Box("Edema", 0.1, 0.1, 0.2, 0.2),))
    studies = [Study("d", "a", "p", "train", labels={"Edema": 1}, images=(boxed,))]
    studies.append(Study("d", "b", "q", "train", labels=labels, images=(Image("b", "AP"),)))

    class Two:
        def __len__(self) -> int:
            return 2

        def split(self, i: int) -> str:
            return "train"

        def study(self, i: int) -> Study:
            return studies[i]

        def rows(self, i: int) -> list[int]:
            return [i]

    found = {s.images[0].row: s.answer for s in grounding_samples(Two(), "x", "train", ["Edema"])}  # type: ignore[arg-type]
    assert (found.get(1) == "No edema regions detected.") == asked and "<box>" in found[0]
