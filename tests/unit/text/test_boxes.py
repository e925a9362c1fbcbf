"""Boxes in text."""

from diagcot.data.study import Box
from diagcot.text.boxes import claimed, is_well_formed, parse, parse_pixels


def test_fractions_and_thousandths():
    assert parse("<box>(0.1,0.2),(0.3,1.0)</box>") == [Box("", 0.1, 0.2, 0.3, 1.0)]
    assert parse("<box>( 100, 200 ) , (300,2000)</box>") == [Box("", 0.1, 0.2, 0.3, 1.0)]


def test_what_an_answer_claims():
    assert claimed("No edema regions detected.") == [] and claimed("I cannot tell") is None
    (broken,) = claimed("<box>(1,2),(3</box>")
    assert not is_well_formed(broken)


def test_boxes_in_pixels():
    assert parse_pixels("at [10, 20, 30.5, 40]") == [Box("", 10, 20, 30.5, 40)] and parse_pixels("[1, 2, 3]") == []
    assert len(parse_pixels("[1, 2, 3, 4] or [-5, 6, 7, 8]")) == 2
