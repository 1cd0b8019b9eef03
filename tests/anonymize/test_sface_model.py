"""A model with SFace as its encoder, from its export to the record of a photo."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from fakes import records
from PIL import Image
from skimage import data

from identitydp_jax import cli
from identitydp_jax.anonymize import faces, methods
from identitydp_jax.checks import UserError
from identitydp_jax.models import pretrained
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.training import state as states
from identitydp_jax.training.export import export

pytestmark = pytest.mark.network
SENSITIVITY = 2 * 128**0.5


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The network of the configuration for SFace, shrunk and not trained, as a run exports it."""
    config = tiny.training_config(name="synthetic128_sface")
    state = states.create(config)
    population = {**state.population, "deviation": jnp.full(128, 128**-0.5), "basis": jnp.eye(128)}
    path = tmp_path_factory.mktemp("model") / "sface.safetensors"
    variables = state.replace(population=population).variables
    export(path, config, variables, steps=0, command="identitydp export")
    return path


def _anonymize(folder, model, *options):
    photo = folder / "in" / "astronaut.png"
    photo.parent.mkdir(exist_ok=True)
    Image.fromarray(data.astronaut()).save(photo)
    arguments = ["anonymize", photo, "--output", folder / "out", "--model", model, *options]
    return cli.main(list(map(str, arguments)))


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch):
    monkeypatch.setattr(cli, "_cache_compilations", lambda: None)


def test_the_card_names_the_licence_of_sface(file):
    card = file.with_suffix(".md").read_text()
    (line,) = [line for line in card.splitlines() if line.startswith("- `sface`")]
    assert "Apache-2.0" in line and "non-commercial" not in card


def test_a_photo_is_anonymized_with_settings_for_128_values(file, tmp_path, capsys):
    assert _anonymize(tmp_path, file, "--key-file", tmp_path / "my.key") == 0
    (record,) = records(tmp_path / "out")
    (face,) = record["faces"]
    assert face["handled"] == "anonymized" and face["charged"]["number"] == 1
    assert face["dimension"] == 128
    assert face["sensitivity"] == pytest.approx(22.627, abs=1e-3) == SENSITIVITY
    assert face["calibration"] == "certified-l2" and face["paper_epsilon"] is None
    assert face["certified_epsilon"] == pytest.approx(6.0, abs=1e-6)
    assert face["rho"] == PrivacySetting(dimension=128).rho
    before, after = data.astronaut(), np.asarray(Image.open(tmp_path / "out" / "astronaut.png"))
    assert before.shape == after.shape and (before != after).any()
    assert "certified 6)" in capsys.readouterr().err  # no epsilon by the paper's definition


def test_what_was_measured_with_arcface_is_refused_in_one_line(file, tmp_path, capsys):
    assert _anonymize(tmp_path, file, "--calibration", "paper", "--audit-seed", "1") == 2
    said = capsys.readouterr().err
    assert "was measured with another identity encoder" in said and said.count("\n") == 1


def test_a_similarity_is_reckoned_for_128_values(file):
    method = methods.parse("identitydp", model=file, setting=PrivacySetting("privunit", 3.0).at)
    assert method.setting == PrivacySetting("privunit", 3.0, dimension=128)
    assert method.setting.expected_cosine > 1.9 * PrivacySetting("privunit", 3.0).expected_cosine


def test_settings_for_other_embeddings_are_refused_in_one_line(file):
    model = faces.load_model(file)
    assert model.dimension == model.encode.dimension == 128
    blank = np.zeros((1, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match="embeddings of 512 values, those of model") as error:
        methods.IdentityDP(model, PrivacySetting())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="give PrivacySetting dimension=128"):
        faces.release_faces(model, blank, keys=tiny.keys(1), setting=PrivacySetting())


def test_a_network_for_other_embeddings_than_its_encoder_gives_is_refused(tmp_path):
    state = states.create(tiny.training_config())
    config = states.network_config(tiny.training_config())
    path = tmp_path / "mixed.safetensors"
    pretrained.save(path, config, state.variables, encoder="sface")
    with pytest.raises(UserError, match="takes embeddings of 512 values, and its encoder sface"):
        faces.load_model(path)
