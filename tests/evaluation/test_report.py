"""Figures as they are written."""

import json
import math

import numpy as np
from PIL import Image

from identitydp_jax.evaluation import report
from identitydp_jax.evaluation.report import Curve, Figure, Report


def test_a_mean_says_how_many_and_how_sure():
    figure = Figure.mean(np.arange(101.0))
    assert (figure.value, figure.count) == (50.0, 101)
    assert 40 < figure.low < 46 and 54 < figure.high < 60
    assert str(Figure(0.5, 3)) == "0.500" and str(Figure(math.inf, 3)) == "-"
    assert str(Figure(12.3456, 3, 12.0, 13.0)) == "12.35 ±0.500"


def test_people_are_resampled_whole():
    values = np.repeat([0.0, 1.0], 50)
    alone, together = Figure.mean(values), Figure.mean(values, np.repeat(["a", "b"], 50))
    assert alone.high - alone.low < 0.25
    assert (together.low, together.high) == (0.0, 1.0)


def test_everything_is_written(tmp_path):
    rows = {
        "original": {"PSNR": Figure(math.inf, 4, math.inf, math.inf)},
        "1": {"PSNR": Figure(1 / 3, 4, 0.25, 0.5), "SSIM": Figure(0.5, 4)},
        "10": {"PSNR": Figure(2.0, 4, 1.0, 3.0), "SSIM": Figure(0.75, 4)},
    }
    curve = Curve(("PSNR", "SSIM"), "epsilon", {"": [(1.0, "1"), (10.0, "10")]}, {"chance": 0.1})
    sheet = {"original": np.zeros((3, 256, 256, 3), np.uint8)}
    made = Report("table1", "A title", rows, ["How."], sheet, [curve])
    data = {"photos": 7, "faces": 4, "people": 2, "unreadable": [["a", "why"]]}
    data |= {"no_face_found": [["b", "why"], ["c", "why"]], "duplicates": []}
    facts = {"command": "identitydp evaluate table1", "missing": {"dlib": "not installed"}}
    facts["data"] = data
    paths = report.write(made, facts, tmp_path / "new")
    assert sorted(path.name for path in paths) == [
        "table1-sheet.png", "table1.json", "table1.md", "table1.png",
    ]  # fmt: skip
    content = json.loads(paths[0].read_text())
    assert content["rows"]["1"]["PSNR"] == {
        "value": 0.333333, "count": 4, "low": 0.25, "high": 0.5,
    }  # fmt: skip
    assert content["rows"]["original"]["PSNR"]["value"] is None
    assert content["missing"] == {"dlib": "not installed"}
    text = paths[1].read_text()
    assert "| 1 | 0.333 ±0.125 | 0.500 |" in text and "| original | - | - |" in text
    assert "identitydp evaluate table1" in text and "Not measured, dlib: not installed" in text
    assert "4 faces of 2 known people in 7 photos; left out: 1 unreadable, 2 no face found" in text
    for path in paths[2:]:
        assert np.asarray(Image.open(path)).std() > 0
