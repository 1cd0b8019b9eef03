"""The command with the real detector and encoder, and a network that was never trained."""

import jax
import numpy as np
import pytest
from fakes import records
from PIL import Image

from identitydp_jax import cli

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from identitydp_jax.models import population, pretrained
    from identitydp_jax.models.aeinet import AEIConfig, variable_shapes

    config = AEIConfig(resolution=64, width=0.05)
    rng = np.random.default_rng(0)
    shapes = {**variable_shapes(config), "population": population.zeros(512)}
    variables = jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), shapes)
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    pretrained.save(path, config, variables, encoder="w600k_mbf")
    return path


@pytest.fixture
def photo(tmp_path):
    from skimage import data

    path = tmp_path / "in" / "astronaut.png"
    path.parent.mkdir()
    Image.fromarray(data.astronaut()).save(path)
    return path


def test_astronaut(model, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)
    output = tmp_path / "out"
    command = ["anonymize", str(photo), "--output", str(output), "--model", str(model)]
    assert cli.main([*command, "--audit-seed", "1"]) == 0
    (record,) = records(output)
    (face,) = record["faces"]
    assert face["handled"] == "anonymized" and len(record["model_sha256"]) == 64

    before, after = (np.asarray(Image.open(path)) for path in (photo, output / photo.name))
    left, top, right, bottom = face["box"]
    changed = np.abs(before.astype(int) - after).max(axis=-1) > 0
    y, x = np.ogrid[: after.shape[0], : after.shape[1]]
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    assert changed[np.hypot(across, down) < 0.85].mean() > 0.99  # the face inside its box
    width, height = right - left, bottom - top
    changed[max(0, top - height) : bottom + height, left - width : right + width] = False
    assert not changed.any()

    assert cli.main([*command, "--audit-seed", "1"]) == 0
    assert "1 already done" in capsys.readouterr().err
