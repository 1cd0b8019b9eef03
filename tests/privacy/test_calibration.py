import math
import re

import numpy as np
import pytest

from identitydp_jax.privacy import calibration
from identitydp_jax.weights import registry


def test_certified_sensitivity_bounds_unit_vectors_and_is_attained():
    delta = calibration.l1_sensitivity("certified-l2")
    rows = np.random.default_rng(0).normal(size=(200, calibration.EMBEDDING_DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert abs(rows[:100] - rows[100:]).sum(1).max() < delta
    diagonal = np.full(calibration.EMBEDDING_DIM, 1 / math.sqrt(calibration.EMBEDDING_DIM))
    assert abs(diagonal - -diagonal).sum() == pytest.approx(delta)


def test_the_empirical_sensitivity_says_what_it_was_measured_on():
    record = calibration.PAPER
    assert calibration.l1_sensitivity("paper") == record.value
    assert 24 < record.value < calibration.l1_sensitivity("certified-l2")
    assert record.pairs == record.faces * (record.faces - 1) // 2
    assert re.fullmatch("[0-9a-f]{64}", record.files_sha256)
    assert record.encoder_sha256 == registry.WEIGHTS["w600k_mbf"].sha256
    assert record.description
