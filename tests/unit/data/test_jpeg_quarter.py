"""The decoder of full-size films gives the very pixels of libjpeg-turbo, and leaves everything else to it."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from diagcot.data import pixels


FRAME = b"\xff\xc0\x00\x0b\x08\x00\x40\x00\x40\x01\x01\x11\x00"  # of a grey image of 64 x 64 pixels


def film(width, height, seed=0, noise=20.0):
    """A grey image with shapes, noise, and black and white parts."""
    rng = np.random.default_rng(seed)
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    values = 128 + 110 * np.sin(across / 9 + seed) * np.cos(down / 7) + rng.normal(0, noise, (height, width))
    values[: height // 3, : width // 3] = rng.choice([0, 255], size=(height // 3, width // 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encoded(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def by_pillow(raw):
    image = Image.open(io.BytesIO(raw))
    image.draft("L", (image.width // 4, image.height // 4))
    image.load()
    return np.asarray(image)


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("optimize", [False, True])
def test_the_pixels_are_those_of_libjpeg(quality, optimize):
    from diagcot.data.jpeg_quarter import quarter

    for number, size in enumerate([(8, 8), (9, 17), (64, 40), (123, 77), (250, 301)]):
        for noise in (0.0, 3.0, 60.0):
            raw = encoded(film(*size, number, noise), quality=quality, optimize=optimize, comment=b"a film")
            np.testing.assert_array_equal(quarter(raw), by_pillow(raw))


@pytest.mark.parametrize(
    "raw",
    [
        encoded(film(64, 64), progressive=True),
        encoded(film(64, 64).convert("RGB")),
        encoded(film(64, 64), restart_marker_blocks=3),
        encoded(film(64, 64), qtables=[[300] * 64]),  # steps of 16 bits
        encoded(film(64, 64))[:-2],
        encoded(film(64, 64))[:-400] + b"\xff\xd9",
        encoded(film(64, 64))[:-2] + b"\x12\x34\xff\xd9",
        encoded(film(64, 64))[:300],
        encoded(film(64, 64)).replace(FRAME, FRAME + FRAME),
        b"",
        b"\xff\xd8\xff",
    ],
)
def test_other_images_and_cut_ones_are_left_to_the_library(raw):
    from diagcot.data.jpeg_quarter import quarter

    assert quarter(raw) is None


def test_damaged_bytes_give_the_pixels_of_the_library_or_are_left_to_it():
    from diagcot.data.jpeg_quarter import quarter

    rng = random.Random(0)
    whole = encoded(film(80, 56), quality=92)
    same = 0
    for _ in range(3000):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            raw[rng.randrange(2, len(raw))] = rng.randrange(256)
        found = quarter(bytes(raw))
        if found is not None:
            np.testing.assert_array_equal(found, by_pillow(bytes(raw)))
            same += 1
    assert same > 100


def test_a_converted_film_is_the_same_with_and_without_it(monkeypatch):
    raw = encoded(film(301, 250), quality=95)
    fast = pixels.convert(raw, 64, 90)
    monkeypatch.setattr("diagcot.data.jpeg_quarter.quarter", lambda raw: None)
    assert pixels.convert(raw, 64, 90) == fast
