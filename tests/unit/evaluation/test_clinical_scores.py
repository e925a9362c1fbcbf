"""Clinical scores from what models read of reports, by hand; the stages that compute them."""

import contextlib

import numpy as np
import pytest

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.clinical import readers as stage_readers
from diagcot.evaluation.clinical.readers import Readers
from diagcot.evaluation.clinical.scores import AGREEMENT, ClinicalScores, clinical_metrics, score_row, write_scores
from diagcot.evaluation.scores.columns import BY_NAME
from diagcot.evaluation.settings import ClinicalSettings
from diagcot.jobs import Unit, UserError
from diagcot.jobs.state.ledger import publish
from diagcot.jobs.testing import context
from diagcot.metrics import labels
from diagcot.metrics.clinical import ratescore
from diagcot.metrics.clinical.graphs import (
    Graph,
    graph_reasoning,
    radcliq_f1,
    radgraph_f1,
    radgraph_words,
    radgraph_xl_words,
)
from diagcot.metrics.clinical.readers import compare_each, normalised, readable
from diagcot.metrics.green import counts_matches, errors, green
from diagcot.metrics.intervals import Bootstrap, Metric
from diagcot.metrics.radcliq import MODEL, radcliq_v1, words
from diagcot.metrics.reasoning import Reasoning
from diagcot.preflight.doctor.data import stages
from diagcot.tasks.predictions import Prediction


def row(name: str, answer: str = "clear", reference: str = "clear", model: str = "base") -> Prediction:
    return Prediction(name, name, "report", "iu_xray", model, answer, answer, reference, "stop", False, [])


def read_by(reader: str, scores: list) -> ClinicalScores:
    """What a reader made of the samples 0, 1, ... of the model base."""
    rows = {str(n): {reader: score} for n, score in enumerate(scores)}
    return ClinicalScores({("report", "base"): rows}, {}, frozenset({reader}))


def test_reports_are_split_as_each_model_was_trained():
    assert " ".join(radgraph_words("Effusion (small), 1/2 cm.")) == "Effusion ( small ) , 1 / 2 cm ."
    assert " ".join(radgraph_xl_words("Dr.'s note: 2.5%. (stable).")) == "Dr . ' s note : 2 . 5 % . ( stable ) ."


HEART, BIG = ("Heart", "Anatomy"), ("enlarged", "Observation")


def test_a_reasoning_is_measured_by_the_entities_of_graphs():
    small = ("small", "Observation")
    found = graph_reasoning(
        Graph((HEART, BIG, small, small)), Graph((HEART, BIG)), Graph((HEART, BIG, ("lung", "Anatomy")))
    )
    assert found == Reasoning(factuality=2 / 3, completeness=2 / 3, effectiveness=0.8)
    assert found.overall == pytest.approx(2 / 3 * 0.8)
    assert graph_reasoning(Graph(()), Graph((HEART,)), Graph((HEART,))) == Reasoning(0.0, 0.0, 0.0)
    assert graph_reasoning(Graph((HEART,)), Graph((HEART,)), Graph(())) is None


def test_radgraph_f1_counts_entities_then_whether_they_relate_then_how():
    ours = Graph((HEART, BIG), ((1, 0, "located_at"),))
    assert radgraph_f1(ours, ours) == {"simple": 1.0, "partial": 1.0, "complete": 1.0}
    # The same entities, nothing related: half of `partial` is left (the heart), and of `complete` too.
    assert radgraph_f1(ours, Graph((HEART, BIG))) == {"simple": 1.0, "partial": 0.5, "complete": 0.5}
    other = Graph((HEART, BIG), ((1, 0, "modify"),))
    assert radgraph_f1(ours, other) == {"simple": 1.0, "partial": 1.0, "complete": 0.5}
    more = Graph((HEART, BIG, ("mildly", "Observation")), ((1, 0, "located_at"), (2, 1, "modify")))
    assert radgraph_f1(ours, more) == {"simple": 0.8, "partial": 0.8, "complete": 0.8}
    assert set(radgraph_f1(ours, Graph(())).values()) == {0.0}
    # `complete` alone lowers the case, and only of words that have a relation.
    low = Graph((("heart", "Anatomy"), ("Enlarged", "Observation")), ((1, 0, "located_at"),))
    assert radgraph_f1(ours, low) == {"simple": 0.0, "partial": 0.0, "complete": 0.5}


def test_radcliq_takes_the_mean_of_entities_and_relations():
    ours = Graph((HEART, BIG), ((1, 0, "located_at"),))
    assert radcliq_f1(ours, ours) == 1.0
    assert radcliq_f1(ours, Graph((HEART, BIG))) == 0.5  # no relation on one side: F1 0
    assert radcliq_f1(ours, Graph((HEART,))) == pytest.approx((2 / 3) / 2)


def test_radcliq_is_the_published_line():
    """By hand: at the means it is the intercept; one deviation up in a score adds its weight."""
    means = {name: mean for name, (mean, _, _) in MODEL.items()}
    assert radcliq_v1(means) == pytest.approx(2.46655256e-10, abs=1e-15)
    assert radcliq_v1(means | {"radgraph": 0.53792312 + 0.30282584}) == pytest.approx(-0.377083683)
    # Two equal reports: -(0.377083683 * 0.46207688 / 0.30282584 + 0.3703001 * 0.38242744 / 0.22430938
    #                       + 0.252616218 * 0.23520579 / 0.25394391) = -1.440690
    assert radcliq_v1(dict.fromkeys(MODEL, 1.0)) == pytest.approx(-1.440690, abs=2e-6)
    assert words("No effusion.  Clear") == "no effusion . clear"


def stated(row: np.ndarray) -> dict[str, int]:
    return {name: 1 for name, said in zip(CHEXPERT_LABELS, row, strict=True) if said}


def test_chexbert_columns_are_those_of_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(1)
    ours, theirs = (rng.random((30, 14)) < 0.3 for _ in range(2))
    ours[:, 4] = theirs[:, 4] = False  # nobody states it
    ours[:, 5] = theirs[:, 6] = False  # nobody claims it; it is in no reference
    ours[3] = theirs[3] = ours[4] = theirs[5] = False  # samples without labels on both sides, and on either
    pairs = [[stated(one), stated(other)] for one, other in zip(ours, theirs, strict=True)]
    rows = [row(str(n)) for n in range(30)]
    found = clinical_metrics(rows, read_by("chexbert", pairs))
    boot = Bootstrap([one.study for one in rows], draws=10)
    assert set(AGREEMENT) <= set(found) and len(AGREEMENT) == 3 * 4 * 2
    for end, names in (("", CHEXPERT_LABELS), ("_five", labels.FIVE)):
        kept = [CHEXPERT_LABELS.index(name) for name in names]
        for average in ("micro", "macro", "weighted", "samples"):
            theirs_say = precision_recall_fscore_support(
                theirs[:, kept], ours[:, kept], average=average, zero_division=0
            )
            which = {"micro": "", "samples": "_example"}.get(average, f"_{average}")
            for measure, value in zip(("precision", "recall", "f1"), theirs_say[:3], strict=True):
                metric = found[f"chexbert_{measure}{end}{which}"]
                assert isinstance(metric, Metric) and boot.value(metric) == pytest.approx(value), (measure, average)


def test_agreement_without_any_label_is_zero():
    counts = labels.agreement([{}, {}], [{}, {}])
    boot = Bootstrap(["1", "2"], draws=10)
    values = {boot.value(labels.averaged(counts, how, over)) for how in labels.MEASURES for over in labels.AVERAGES}
    assert values == {0.0}


def test_the_units_of_a_shard_stand_side_by_side(tmp_path):
    from launchers.chain import open_chain
    from launchers.evaluation import aggregate as table
    from launchers.evaluation import clinical
    from launchers.evaluation.green import units as green_units
    from tests.stages import stage

    chain = open_chain("tiny", "laptop", None)
    units = clinical.units(stage("clinical", {}, predictions=["evaluate"]), chain)
    models = chain.stage("evaluate").inputs["models"]
    assert [unit.key for unit in units] == [f"{model}.report.shard.0000{k}" for k in range(2) for model in models]
    asked = stage("green", {"words": 200}, predictions=["evaluate"])
    assert {unit.params["task"] for unit in green_units(asked, chain)} == {"report"}  # by settings of its own
    with pytest.raises(UserError, match="does not ask"):
        clinical.units(stage("clinical", {"tasks": ["fg"]}, predictions=["evaluate"]), chain)
    report = chain.stage("report")
    with_scores = stage("aggregate", {}, **report.inputs, clinical=["evaluate"])
    assert table.units(report, chain)[0].key != table.units(with_scores, chain)[0].key


ANALYSIS = """[Explanation]:
The candidate misses the effusion.

[Clinically Significant Errors]:
(a) False report of a finding: 2. x; y
(b) Missing a finding: 1. effusion

[Clinically Insignificant Errors]:
(d) Severity: 4. z

[Matched Findings]:
3. heart; lungs; base
"""


def test_green_is_the_share_of_what_matched():
    """Insignificant errors do not count; what is not there counts nothing; without a match it is 0."""
    assert green(ANALYSIS) == 3 / (3 + 3)
    assert green(ANALYSIS.replace("(a)", "(1)").replace("(b)", "(2)").replace("(d)", "(4)")) == 0.5
    assert green(ANALYSIS.replace("3. heart; lungs; base", "No matched findings")) == 0.0
    assert green("[Matched Findings]:\n2. a; b") == 1.0
    assert green("noise") == green("") == 0.0
    assert green(ANALYSIS.replace("(b) Missing a finding: 1.", "(b) Missing a finding: none.")) == 3 / 5


def test_green_reads_the_last_of_several_explanations():
    """As Stanford-AIMI/GREEN does: its parser splits at the mark and takes what comes last."""
    begun = ANALYSIS.replace("3. heart; lungs; base", "9. all of it").replace(": 2. x; y", ": 1. x")
    twice = begun + "\n" + ANALYSIS
    assert green(begun) == 9 / (9 + 2) and green(twice) == green(ANALYSIS) == 3 / (3 + 3)
    assert errors(ANALYSIS) == 3 and errors(begun) == 2
    assert green(ANALYSIS + "\n[Explanation]:\nnothing more") == 0.0


def test_an_analysis_that_tells_no_matches_is_told_from_one_without_any():
    assert counts_matches(ANALYSIS) and counts_matches(ANALYSIS.replace("3. heart; lungs; base", "No matched findings"))
    assert not counts_matches("") and not counts_matches("noise")
    assert not counts_matches(ANALYSIS + "[Explanation]:\ncut")


def test_texts_of_one_meaning_have_one_form():
    base = "Findings:\nThe heart is  ENLARGED. No effusion; clear.\n\nImpression: Cardiomegaly."
    ours = "findings : the heart is enlarged . no effusion; clear . impression : cardiomegaly ."
    assert normalised(base) == normalised(ours) == normalised(normalised(ours))
    for split in (radgraph_words, radgraph_xl_words):
        assert split(normalised(ours)) == split(ours)
    assert normalised("\ud800 A") == readable("\ud800 a") == "? a" and len(normalised("No " * 2000).split()) == 1000


class Reads:
    """A reader that cannot take some texts, and of which each call is kept. compares: whether it fails later."""

    def __init__(self, bad: str, compares: bool = False) -> None:
        self.bad, self.compares, self.seen = bad, compares, list[str]()

    def _take(self, *texts: str) -> None:
        if any(self.bad in text for text in texts):
            raise ValueError("a text of the report")

    def read(self, texts):
        self.seen += texts
        if not self.compares:
            self._take(*texts)
        return list(texts)

    def compare(self, ours, theirs):
        if self.compares:
            self._take(ours)
        return {"bertscore": float(ours == theirs)}


@pytest.fixture
def readers(monkeypatch, tmp_path):
    def make(reader, **settings):
        monkeypatch.setattr(stage_readers, "READERS", {"distilroberta-base": None})
        monkeypatch.setattr(stage_readers, "missing_files", lambda name, root: None)
        monkeypatch.setattr(stage_readers, "load", lambda name, root, device: reader)
        return Readers(ClinicalSettings.model_validate({"weights": str(tmp_path)} | settings))

    return make


CASES = [
    row("1", "The lungs are CLEAR.", "the lungs are clear ."),
    row("2", "odd", "clear"),
    row("3", "Clear", "clear"),
]


@pytest.mark.parametrize("compares", [False, True])
def test_a_text_that_a_reader_cannot_take_costs_one_score(readers, compares):
    shared = readers(Reads("odd", compares))
    for _ in range(2):
        found = shared.score(CASES)
        assert [scores["bertscore"] for scores, _ in found] == [1.0, 0.0, 1.0]
        assert [unread for _, unread in found] == [[], ["distilroberta-base"], []]
        assert shared.missing == {}
    (lost, named), _ = shared.score([row("4", "clear", "an odd one"), row("5", "", "")])
    assert (lost["bertscore"], named) == ((0.0, []) if compares else (0.0, ["distilroberta-base"]))


def test_a_reader_that_cannot_read_a_plain_sentence_is_left_out(readers):
    shared = readers(Reads(""))
    assert [scores for scores, _ in shared.score(CASES)] == [{}, {}, {}]
    assert shared.missing == {"distilroberta-base": "it failed (ValueError)"}


PACKAGE = """#!/bin/sh
echo '{}'
while read -r line; do
  case "$line" in
    *dies*) exit 1;;
    *late*) exec sleep 60;;
    *) echo '{"score": 0.25}';;
  esac
done
"""


def test_a_pair_at_which_the_process_of_ratescore_ends_or_hangs_costs_that_pair(tmp_path, monkeypatch):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PACKAGE)
    python.chmod(0o755)
    monkeypatch.setattr(ratescore, "_PAIR_S", 2.0)
    score = {"ratescore": 0.25}
    with contextlib.closing(ratescore.RateScore(tmp_path, "cpu")) as reader:
        pairs = [("clear", "b"), ("it dies", "b"), ("clear", "b"), ("too late", "b"), ("clear", "b")]
        assert compare_each(reader, pairs) == [score, None, score, None, score]


def test_texts_as_written_have_columns_of_their_own(readers, tmp_path):
    reader = Reads("never")
    plain, as_written = readers(reader).score(CASES), readers(reader, texts="as_written").score(CASES)
    assert [scores["bertscore"] for scores, _ in plain] == [1.0, 0.0, 1.0]
    assert [scores["bertscore"] for scores, _ in as_written] == [0.0, 0.0, 0.0]
    assert "The lungs are CLEAR." in reader.seen and "the lungs are clear." in reader.seen
    folders = []
    for name, values in (("normalised", plain), ("as_written", as_written)):
        ctx = context(tmp_path, {"texts": name, "weights": "w"}, stage=name)
        lines = [score_row(one, *value) for one, value in zip(CASES, values, strict=True)]
        result = write_scores(Unit("base.report.0"), ctx, lines, ["distilroberta-base"], {})
        assert result.counts == {"scored": 3, "missing": 0, "unread": 0}
        publish(ctx.stage_dir, "base.report.0", result.outputs, result.counts, {})
        folders.append(str(ctx.output))
    found = clinical_metrics(CASES, ClinicalScores.read(context(tmp_path, {}, inputs={"clinical": folders})))
    boot = Bootstrap([one.study for one in CASES], draws=10)
    values = {name: boot.value(metric) for name, metric in found.items() if isinstance(metric, Metric)}
    assert values == {"bertscore": pytest.approx(2 / 3), "bertscore_as_written": 0.0}
    assert BY_NAME["bertscore_as_written"].title == "BERTScore, texts as written"
    assert BY_NAME["bertscore"].main and not BY_NAME["bertscore_as_written"].main


def test_the_recipes_name_their_stages_and_tell_what_is_not_there(monkeypatch, tmp_path):
    from launchers.chain import open_chain

    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    for recipe in ("diagcot-7b", "cx-mind-7b"):
        chain = open_chain(recipe, "example", None)
        told = chain.notes()
        assert set(told) <= {finding.text for finding in stages(chain)}  # of the doctor
        assert [line for line in told if line.startswith("clinical: no CheXbert F1, SembScore and RadCliQ: no folder ")]
        assert [line for line in told if line.startswith("green: no GREEN: no folder ")]
