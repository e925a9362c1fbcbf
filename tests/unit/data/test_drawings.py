"""Drawings of simple shapes: each seed gives the same scene, and boxes lie where the description says."""

import io

import numpy as np
from PIL import Image as Pillow

from diagcot.data.drawings import scene
from diagcot.data.drawings.scene import COLUMNS, RADII, ROWS, SHAPES, Scene, Shape


def test_every_shape_has_a_box_at_its_place_and_of_its_size() -> None:
    for number in range(60):
        drawn = scene.sample(3, number)
        _, boxes = scene.draw(drawn, 112, 3, number)
        assert [box.label for box in boxes] == [shape.name for shape in drawn.shapes]
        for shape, box in zip(drawn.shapes, boxes, strict=True):
            assert abs((box.x1 + box.x2) / 2 - COLUMNS[shape.column]) < 0.07
            assert abs((box.y1 + box.y2) / 2 - ROWS[shape.row]) < 0.07
            assert abs((box.x2 - box.x1) / 2 - RADII[shape.size]) < 0.05


def test_shapes_are_brighter_or_darker_than_their_surroundings() -> None:
    for name in SHAPES:
        for tone, sign in (("bright", 1), ("dark", -1)):
            jpeg, (box,) = scene.draw(Scene((Shape("middle", "left", name, "large", tone),)), 112, name, tone)
            pixels = np.asarray(Pillow.open(io.BytesIO(jpeg)), float)
            x1, y1, x2, y2 = (round(value * 112) for value in box.corners)
            assert sign * (pixels[y1:y2, x1:x2].mean() - pixels[:, 70:].mean()) > 15


def test_the_same_keys_give_the_same_drawing_and_others_differ() -> None:
    first, second = scene.sample(1, "a"), scene.sample(1, "a")
    assert first == second and scene.draw(first, 64, 1, "a") == scene.draw(second, 64, 1, "a")
    assert len({scene.sample(1, number) for number in range(50)}) > 40


def test_a_description_is_one_sentence_for_each_shape() -> None:
    shape = Shape("middle", "centre", "ring", "small", "dark")
    assert Scene((shape,)).sentences == ["There is a small dark ring at the centre."]
    assert Scene(()).sentences == ["There is no shape."]
