import math

import numpy as np
import pytest

from identitydp_jax.checks import UserError
from identitydp_jax.privacy import calibration, sensitivity
from identitydp_jax.weights import registry


def test_certified_l2_bounds_unit_vectors_and_is_attained():
    delta = calibration.parse("certified-l2").sensitivity
    rows = np.random.default_rng(0).normal(size=(200, calibration.EMBEDDING_DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert abs(rows[:100] - rows[100:]).sum(1).max() < delta
    diagonal = np.full(calibration.EMBEDDING_DIM, 1 / math.sqrt(calibration.EMBEDDING_DIM))
    assert abs(diagonal - -diagonal).sum() == pytest.approx(delta)


def test_certified_l2_clips_no_unit_vector():
    found = calibration.parse("certified-l2")
    assert found.name == "certified-l2" and found.measured is None
    assert found.l1_norm == math.sqrt(512)
    assert found.certified_sensitivity == found.sensitivity


@pytest.mark.parametrize(
    ("spec", "name", "norm"),
    [
        ("certified-l1:19", "certified-l1:19", 19.0),
        ("certified-l1:19.00", "certified-l1:19", 19.0),
        ("certified-l1:1.85e1", "certified-l1:18.5", 18.5),
        ("certified-l1:1", "certified-l1:1", 1.0),
        (f"certified-l1:{math.sqrt(512)!r}", f"certified-l1:{math.sqrt(512)!r}", math.sqrt(512)),
    ],
)
def test_certified_l1_spreads_epsilon_over_twice_the_norm(spec, name, norm):
    found = calibration.parse(spec)
    assert (found.name, found.l1_norm, found.measured) == (name, norm, None)
    assert found.sensitivity == found.certified_sensitivity == 2 * norm
    assert calibration.parse(name) == found


@pytest.mark.parametrize(
    "spec",
    [
        *("", "magic", "certified", "certified-l2:", "certified-l2:19", "Certified-L2"),
        *("certified-l1", "certified-l1:", "certified-l1:S", "certified-l1:0.99", "certified-l1:0"),
        *("certified-l1:22.63", "certified-l1:nan", "certified-l1:inf", "certified-l1:-19"),
        *("paper:", "paper:no/such/file.json", "paper:000000000000", "paper:."),
    ],
)
def test_other_words_are_refused_in_one_line(spec):
    with pytest.raises(UserError) as error:
        calibration.parse(spec)
    assert "\n" not in str(error.value)
    assert spec.partition(":")[2] in str(error.value)


def test_the_shipped_set_says_what_it_was_measured_on():
    found = calibration.parse("paper")
    measured = found.measured
    assert found.name == f"paper:{measured.set_sha256[:12]}" == measured.name
    assert found.sensitivity == measured.value
    assert 24 < measured.mean < measured.value < 31
    assert found.l1_norm == math.sqrt(512)
    assert measured.faces == 5000 and measured.pairs == 12_497_500
    assert measured.encoder_sha256 == registry.WEIGHTS["w600k_mbf"].sha256
    assert "nearest its centre" in measured.description and "calibrate" in measured.command


def test_the_shipped_set_is_parsed_once_and_by_its_full_name():
    found = calibration.parse("paper")
    assert calibration.parse("paper") is found
    assert calibration.parse(found.name) is found


def test_a_file_is_a_calibration_of_its_own(tmp_path):
    record = sensitivity.measured(
        [bytes([i]) * 32 for i in range(3)],
        value=28.5,
        mean=24.5,
        encoder_sha256="e" * 64,
        description="",
        left_out=0,
        command="",
        version="",
    )
    sensitivity.write(tmp_path / "own.json", record)
    found = calibration.parse(f"paper:{tmp_path / 'own.json'}")
    assert found == calibration.Calibration(record.name, 28.5, math.sqrt(512), record)
    assert hash(found) == hash(calibration.parse(f"paper:{tmp_path / 'own.json'}"))
    assert found.certified_sensitivity == calibration.parse("certified-l2").sensitivity
    assert "\\x01" not in repr(found)
