"""Clinical scores from what models read of reports, by hand; the stages that compute them."""

import numpy as np
import pytest

from diagcot.jobs import UserError
from diagcot.metrics import labels
from diagcot.metrics.graphs import Graph, radcliq_f1, radgraph_f1, radgraph_words, radgraph_xl_words
from diagcot.metrics.green import green
from diagcot.metrics.radcliq import MODEL, radcliq_v1, words
from diagcot.preflight.doctor.data import stages


def test_reports_are_split_as_each_model_was_trained():
    assert " ".join(radgraph_words("Effusion (small), 1/2 cm.")) == "Effusion ( small ) , 1 / 2 cm ."
    assert " ".join(radgraph_xl_words("Dr.'s note: 2.5%. (stable).")) == "Dr . ' s note : 2 . 5 % . ( stable ) ."


HEART, BIG = ("Heart", "Anatomy"), ("enlarged", "Observation")


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


def test_macro_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(1)
    ours, theirs = (rng.random((30, 14)) < 0.3 for _ in range(2))
    ours[:, 4] = theirs[:, 4] = False  # nobody states it
    counts = np.stack([ours & theirs, ours & ~theirs, ~ours & theirs], -1).sum(0).astype(float)
    for average, mine in (("macro", labels.macro_f1_of_all), ("micro", labels.micro_f1)):
        assert mine(counts) == pytest.approx(f1_score(theirs, ours, average=average, zero_division=0))


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


def test_the_recipes_name_their_stages_and_tell_what_is_not_there(monkeypatch, tmp_path):
    from launchers.chain import open_chain

    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    for recipe in ("diagcot-7b", "cx-mind-7b"):
        chain = open_chain(recipe, "example", None)
        told = chain.notes()
        assert set(told) <= {finding.text for finding in stages(chain)}  # of the doctor
        assert [line for line in told if line.startswith("clinical: no CheXbert F1, SembScore and RadCliQ: no folder ")]
        assert [line for line in told if line.startswith("green: no GREEN: no folder ")]
