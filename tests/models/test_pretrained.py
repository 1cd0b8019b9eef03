import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import population, pretrained


def _variables():
    """Variables with a population that shows."""
    rng, empty = np.random.default_rng(0), population.zeros(tiny.CONFIG.identity_dimension)
    filled = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), empty)
    return {**tiny.variables(), "population": filled}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "deep" / "model.safetensors"
    pretrained.save(path, tiny.CONFIG, _variables(), encoder="w600k_mbf")
    return path


def test_round_trip(file):
    found = pretrained.load(file)
    assert found.config == tiny.CONFIG
    assert found.encoder == "w600k_mbf"
    wanted = _variables()
    assert jax.tree.structure(found.variables) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found.variables), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, np.float32(np.float16(b)))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_declared_attributes_come_with_the_network_or_not_at_all(file):
    assert "declared" not in pretrained.load(file).variables
    wanted = {**_variables(), "declared": tiny.declared_attributes()}
    pretrained.save(file, tiny.CONFIG, wanted, encoder="w600k_mbf")
    found = pretrained.load(file).variables["declared"]
    assert found.keys() == wanted["declared"].keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted["declared"][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["kernel", "mean", "cross"])
@pytest.mark.parametrize("cut", [lambda x: x[..., :-1], None], ids=["shape", "missing"])
def test_half_of_what_declared_attributes_need_is_refused(file, name, cut):
    variables = {**_variables(), "declared": tiny.declared_attributes()}
    value = variables["declared"].pop(name)
    if cut is not None:
        variables["declared"][name] = cut(value)
    pretrained.save(file, tiny.CONFIG, variables, encoder="w600k_mbf")
    message = _refusal(file)
    assert "not those of the network it describes" in message or "not a model file" in message


def _reordered(data):
    """Return a safetensors file of the same content with its header the other way round."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = dict(reversed(header.pop("__metadata__").items()))
    metadata["config"] = json.dumps(dict(reversed(json.loads(metadata["config"]).items())))
    header = dict(reversed(header.items())) | {"__metadata__": metadata}
    text = json.dumps(header, indent=1).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def test_hash_is_that_of_the_network_not_of_its_file(file):
    before = pretrained.load(file).sha256
    content = file.read_bytes()
    file.write_bytes(_reordered(content))
    assert file.read_bytes() != content
    assert pretrained.load(file).sha256 == before
    for _ in range(3):
        pretrained.save(file, tiny.CONFIG, _variables(), encoder="w600k_mbf")
        assert pretrained.load(file).sha256 == before


def test_hash_follows_tensors_configuration_and_encoder(file):
    found = [pretrained.load(file).sha256]
    content = file.read_bytes()
    for changes in (
        {"change_tensors": lambda x: {k: v + np.float16(k.endswith("mean")) for k, v in x.items()}},
        {"change_metadata": lambda x: {**x, "encoder": "sface"}},
    ):
        file.write_bytes(content)
        _rewritten(file, **changes)
        found.append(pretrained.load(file).sha256)
    assert len(set(found)) == 3


def _rewritten(file, *, change_tensors=lambda x: x, change_metadata=lambda x: x):
    with safetensors.safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    tensors = change_tensors(safetensors.numpy.load(file.read_bytes()))
    file.write_bytes(safetensors.numpy.save(tensors, change_metadata(metadata)))


def _refusal(file):
    with pytest.raises(UserError) as caught:
        pretrained.load(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "change",
    [
        lambda x: {**x, "params/encoder/down0/kernel": x["params/encoder/down0/kernel"][:1]},
        lambda x: {k: v for k, v in x.items() if "block0" not in k},
        lambda x: {**x, "params/more": np.zeros(3, np.float16)},
        lambda x: {k: v for k, v in x.items() if not k.startswith("population/")},
        lambda x: {**x, "population/basis": x["population/basis"][:, :9]},
    ],
    ids=["shape", "missing", "more", "without a population", "few axes"],
)
def test_other_parameters_are_refused(file, change):
    _rewritten(file, change_tensors=change)
    assert "not those of the network it describes" in _refusal(file)


def test_network_of_another_size_is_refused(file):
    config = json.dumps(dataclasses.asdict(dataclasses.replace(tiny.CONFIG, width=1 / 16)))
    _rewritten(file, change_metadata=lambda x: {**x, "config": config})
    assert "not those of the network it describes" in _refusal(file)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"config": "{", "encoder": "w600k_mbf"},
        {"config": "[]", "encoder": "w600k_mbf"},
        {"config": '{"depth": 3}', "encoder": "w600k_mbf"},
        {"config": '{"resolution": 100}', "encoder": "w600k_mbf"},
        {"config": '{"width": "wide"}', "encoder": "w600k_mbf"},
        {"config": '{"width": "0.5"}', "encoder": "w600k_mbf"},
        {"config": '{"identity_dimension": -1}', "encoder": "w600k_mbf"},
        {"config": "[" * 100_000, "encoder": "w600k_mbf"},
        {"config": '{"resolution": 1' + "0" * 400 + "}", "encoder": "w600k_mbf"},
    ],
)
def test_foreign_metadata_is_refused(file, metadata):
    _rewritten(file, change_metadata=lambda _: metadata)
    assert "not a model file" in _refusal(file)


def test_foreign_and_broken_files_are_refused(file, tmp_path):
    whole = file.read_bytes()
    for content in (b"", b"not a model", whole[:4], whole[:100], whole[:-1], b"\xff" * 64):
        file.write_bytes(content)
        assert "not a model file" in _refusal(file)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        assert "no model can be read here" in _refusal(missing)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in _refusal(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: np.where(np.arange(x.size).reshape(x.shape), x, np.nan), "is not finite"),
        (lambda x: np.where(np.arange(x.size).reshape(x.shape), x, -np.inf), "is not finite"),
        (np.zeros_like, "all its parameters are zero"),
    ],
)
def test_numbers_that_draw_nothing_are_refused(file, change, said):
    _rewritten(file, change_tensors=lambda tensors: {k: change(v) for k, v in tensors.items()})
    assert said in _refusal(file)


@pytest.mark.parametrize("name", ["params", "params/encoder", "other/x", "/", ""])
def test_names_that_clash_or_belong_elsewhere_are_refused(file, name):
    _rewritten(file, change_tensors=lambda x: {**x, name: np.zeros(3, np.float16)})
    assert "not those of the network it describes" in _refusal(file)


def test_names_of_shipped_models_are_listed():
    with pytest.raises(UserError, match="give a file or one of default"):
        pretrained.load("defualt")


@pytest.mark.parametrize("value", [7e4, -1e9, np.inf, np.nan])
def test_values_beyond_half_precision_are_refused(tmp_path, value):
    variables = tiny.variables()
    statistics = variables["batch_stats"]["encoder"]["down0_norm"]["norm"]
    statistics["var"] = statistics["var"].at[0].set(value)
    path = tmp_path / "model.safetensors"
    with pytest.raises(UserError, match=r"down0_norm/norm/var is beyond half precision"):
        pretrained.save(path, tiny.CONFIG, variables, encoder="w600k_mbf")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="the model cannot be written"):
        pretrained.save(
            tmp_path / "file" / "model.safetensors", tiny.CONFIG, tiny.variables(), encoder="x"
        )
