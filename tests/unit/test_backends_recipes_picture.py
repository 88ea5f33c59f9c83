"""The picture: well-formed, a line and a dot for each recipe, at the places that the roofline says."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from backends.recipes.picture import HEIGHT, WIDTH, svg
from backends.recipes.roofline import roofline
from backends.recipes.shapes import SIZES
from tests.unit.recipe_rig import AWQ, FP8, recipe

NS = "{http://www.w3.org/2000/svg}"


def test_two_recipes() -> None:
    int4, fp8 = (
        roofline(recipe(context_tokens=512, **axes), SIZES["70B"], 32)
        for axes in ({"weights": AWQ}, {"weights": FP8, "activations": FP8})
    )
    drawn = ElementTree.fromstring(svg([("a<b>&", int4), ("fp8", fp8)], 'a "title" & <more>'))
    assert drawn.findtext(f"{NS}title") == 'a "title" & <more>'
    dots = drawn.findall(f"{NS}circle")
    assert len(dots) == 2
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    assert places[0][0] > places[1][0]  # INT4 reads fewer bytes for as many FLOP: to the right, and higher
    assert places[0][1] < places[1][1]
    for path in drawn.findall(f"{NS}path"):
        numbers = [float(one) for one in re.findall(r"-?\d+\.?\d*", path.attrib["d"])]
        assert all(-1 <= one <= max(WIDTH, HEIGHT) for one in numbers)
    told = " ".join(text.text or "" for text in drawn.findall(f"{NS}text"))
    assert "a<b>&" in told
    assert "memory-bound" in told


def test_a_dot_past_the_ridge_lies_on_the_flat_part() -> None:
    roof = roofline(recipe(context_tokens=64, weights=AWQ), SIZES["70B"], 4000)
    assert roof.bound == "compute"
    drawn = ElementTree.fromstring(svg([("x", roof)], "t"))
    line = next(path for path in drawn.findall(f"{NS}path") if path.get("fill") == "none")
    flat = line.attrib["d"].split("L")[-1].split()[1]
    assert drawn.find(f"{NS}circle").attrib["cy"] == flat  # type: ignore[union-attr]


def test_none_and_too_many() -> None:
    roof = roofline(recipe(), SIZES["70B"])
    for many in (0, 4):
        with pytest.raises(ValueError, match="between one and"):
            svg([("x", roof)] * many, "t")
