import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType

from identitydp_jax import sharding
from identitydp_jax.models.aeinet import AEIConfig
from identitydp_jax.models.face_region import face_region
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.models.population import zeros
from identitydp_jax.training import state as states
from identitydp_jax.training import step as steps
from identitydp_jax.training.step import make_step, soften


@pytest.fixture(scope="module")
def config():
    return tiny.training_config()


@pytest.fixture(scope="module", autouse=True)
def augmented():
    """What the steps of this module would have augmented, shapes and dtypes."""
    seen = []

    def augment(faces, *, key):
        seen.append((faces.shape, faces.dtype, key.dtype))
        return to_float(faces)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "augment", augment)
        yield seen


def _lowered(config, devices, *, frozen=False):
    """Lower the step over these devices as the loop does; return also where its inputs go."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    everywhere, split = sharding.replicated(mesh), sharding.over_batch(mesh)
    state, params = jax.eval_shape(lambda: (states.create(config), tiny.encoder_params()))
    held = sharding.state_shardings(state, mesh, fsdp=config.fsdp)
    step = jax.jit(
        make_step(config, tiny.encode, mesh, frozen=frozen),
        in_shardings=(held, everywhere, split, everywhere),
        out_shardings=(held, everywhere),
        donate_argnums=0,
    )
    pictures = jax.ShapeDtypeStruct((config.batch_size, 64, 128, 3), np.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return step.lower(state, params, pictures, key), (held, everywhere, split)


def _runnable(program, shardings):
    held, everywhere, split = shardings

    def run(state, pictures, key):
        # In buffers of its own: the step takes those of the state that it is given.
        state = sharding.place(state, held)
        params = sharding.place(tiny.encoder_params(), everywhere)
        after, metrics = program(state, params, jax.device_put(pictures, split), key)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        return after, jax.device_get(metrics)

    return run


@pytest.fixture(scope="module")
def step(config):
    lowered, shardings = _lowered(config, 1)
    return _runnable(lowered.compile(), shardings)


@pytest.fixture(scope="module")
def once(config, step):
    """A state, the state after one step, and the metrics."""
    before = jax.device_get(states.create(config))
    # As after some steps: at first the finer blocks stand behind a gain of 0, without a gradient.
    for params in (before.params, before.average["params"]):
        params["generator"]["gain"] = np.full(3, 0.1, np.float32)
    after, metrics = step(before, tiny.pictures(8), jax.random.key(0))
    return before, jax.device_get(after), metrics


@pytest.fixture(scope="module")
def eight():
    """The program of eight devices that share the state, and where its inputs go."""
    lowered, shardings = _lowered(tiny.training_config("fsdp=true"), 8)
    return lowered.compile(), shardings


def test_the_step_augments_what_it_is_given(once, augmented):
    assert augmented[0] == ((8, 2, 64, 64, 3), np.uint8, jax.random.key(0).dtype)


def test_metrics_are_finite_and_add_up(config, once):
    assert {value.dtype for value in once[2].values()} == {np.dtype(np.float32)}
    metrics = {name: float(value) for name, value in once[2].items()}
    assert all(np.isfinite(list(metrics.values())))
    terms = set(config.loss) & set(metrics)
    # Some cost nothing without a weight.
    without = {"landmarks", "expression", "surroundings", "edge", "seam", "styles", "modulation"}
    assert not any(config.loss[name] for name in without)
    assert terms == set(config.loss) - {"kind", "reduction"} - without
    weighted = sum(config.loss[name] * metrics[name] for name in terms)
    np.testing.assert_allclose(metrics["total"], weighted, rtol=1e-5)
    for name in (
        "identity", "attributes", "reconstruction", "texture", "colour", "gradient_norm",
    ):  # fmt: skip
        assert metrics[name] > 0
    assert 0 <= metrics["discriminator_accuracy"] <= 1
    assert 0 < abs(metrics["cosine_twin"]) <= 1


def test_a_step_on_a_pretrained_generator_has_its_terms_and_holds_its_layers(monkeypatch):
    held = []
    monkeypatch.setattr(steps.prior, "hold", lambda generator: held.append(generator) or generator)
    config = tiny.training_config("network.coarse=64", "loss.attributes=0", name="prior128")
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    pictures = jax.ShapeDtypeStruct((config.batch_size, 64, 128, 3), np.uint8)
    with tiny.small_source():
        state = states.shapes(config)
        after, metrics = jax.eval_shape(
            make_step(config, tiny.encode, mesh, frozen=False),
            state, tiny.encoder_params(), pictures, jax.random.key(0),
        )  # fmt: skip
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert {name for name, weight in config.loss.items() if weight} <= {
        *metrics, "kind", "reduction",
    }  # fmt: skip
    assert held and held[0].keys() == state.params["generator"].keys()


def test_the_population_stays_as_it_was_measured(once):
    before, after, _ = once
    jax.tree.map(np.testing.assert_array_equal, before.population, after.population)


def test_every_parameter_of_both_networks_gets_a_gradient(config, once):
    before, after, _ = once
    for part in ("params", "discriminator"):
        changes = jax.tree_util.tree_map_with_path(
            lambda path, a, b: (jax.tree_util.keystr(path), np.abs(a - b)),
            getattr(before, part), getattr(after, part),
        )  # fmt: skip
        leaves = jax.tree.leaves(changes, is_leaf=lambda x: isinstance(x, tuple))
        still = [name for name, change in leaves if not change.max() > 0]
        assert not still
        # Adam's first step moves what has a gradient by the learning rate.
        moved = np.concatenate([change.ravel() for _, change in leaves])
        np.testing.assert_allclose(np.median(moved), config.learning_rate, rtol=0.05)


def test_the_identity_encoder_is_no_part_of_the_state(once):
    assert int(once[1].step) == 1
    assert set(once[1].params) == {"encoder", "generator"}
    assert not any(leaf.shape == (768, 512) for leaf in jax.tree.leaves(once[1]))


def test_running_statistics_follow_the_faces(once):
    before, after, _ = once
    assert set(after.batch_stats) == {"encoder"}  # the generator normalises per pixel
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before.batch_stats),
        jax.tree.leaves(after.batch_stats),
        strict=True,
    ):
        assert np.abs(a - b).max() > 0, jax.tree_util.keystr(path)


def test_statistics_come_from_real_faces_alone(config, once):
    """The encoder also sees what is drawn; its first running mean must not."""
    from identitydp_jax.models.layers import conv

    before, after, _ = once
    kernel = before.params["encoder"]["down0"]["kernel"]
    face_key, *_ = jax.random.split(jax.random.key(0), 4)
    faces, _ = steps.learned_faces(tiny.pictures(8), key=face_key, config=config)
    mean = conv(faces, kernel, stride=2, padding=1).mean((0, 1, 2))
    found = after.batch_stats["encoder"]["down0_norm"]["norm"]["mean"]
    np.testing.assert_allclose(found, 0.02 * mean, atol=1e-6)


def test_average_starts_short(once):
    before, after, _ = once
    # Its first decay is (1 + 0) / (10 + 0).
    for a, b, average in zip(
        jax.tree.leaves([before.params, before.batch_stats]),
        jax.tree.leaves([after.params, after.batch_stats]),
        jax.tree.leaves([after.average["params"], after.average["batch_stats"]]),
        strict=True,
    ):
        np.testing.assert_allclose(average, 0.1 * a + 0.9 * b, atol=1e-6)


def test_the_same_step_gives_the_same_bits(step, once):
    again, _ = step(once[0], tiny.pictures(8), jax.random.key(0))
    for a, b in zip(jax.tree.leaves(once[1]), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_few_steps_learn_a_batch(config, step):
    state, root, history = states.create(config), jax.random.key(1), []
    for i in range(30):
        state, metrics = step(state, tiny.pictures(8), jax.random.fold_in(root, i))
        history.append({name: float(value) for name, value in metrics.items()})
    for name in ("colour", "reconstruction"):
        first, last = (np.mean([row[name] for row in rows]) for rows in (history[:5], history[-5:]))
        assert last < 0.8 * first, name


_LOSSES = (
    "total", "adversarial", "identity", "leak", "attributes", "reconstruction", "texture",
    "colour", "discriminator",
)  # fmt: skip


class _Net:
    """Draws one grey everywhere; its only map is the face itself."""

    config = AEIConfig()

    def apply(self, variables, first, maps=None, *, method, train=None, mutable=()):
        if method == "mask":
            return jnp.ones_like(first[0][..., :1])
        updates = {"batch_stats": variables["batch_stats"]}
        if method == "attributes":
            return [first], updates
        return jnp.zeros_like(maps[0]) + variables["params"]["grey"], updates


class _Judge:
    """Its only feature is the face itself."""

    def apply(self, variables, faces):
        return [faces * variables["params"]["slope"]], [faces]


def test_the_truth_is_known_of_faces_and_of_twins_and_only_the_face_is_drawn(monkeypatch):
    monkeypatch.setattr(steps, "AEINet", lambda *_, **__: _Net())
    monkeypatch.setattr(steps, "discriminator_network", lambda _: _Judge())
    config, params = tiny.training_config("batch_size=24"), tiny.encoder_params()
    state = states.TrainState(
        step=0, params={"grey": jnp.float32(0.25)}, batch_stats={}, average={},
        population=zeros(512), discriminator={"slope": jnp.float32(1.0)}, optimizer=None,
        discriminator_optimizer=None,
    )  # fmt: skip
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])
    gradients = steps.make_gradients(config, tiny.encode, mesh, frozen=True)
    pictures = jnp.asarray(tiny.pictures(24))
    _, _, metrics = jax.jit(gradients)(state, params, pictures, jax.random.key(0))

    face_key, row_key, target_key, _ = jax.random.split(jax.random.key(0), 4)
    faces, twins = steps.learned_faces(pictures, key=face_key, config=config)
    rows = steps.draw_rows(24, key=row_key, mixture=config.mixture)
    twin, known = (np.asarray(x) for x in (rows.twin, rows.known))
    assert 0 < twin.sum() < known.sum() < 24
    truth = np.where(twin[:, None, None, None], twins, faces)
    own = tiny.encode(params, identity_crop(truth))
    targets = steps.draw_targets(
        own, rows, key=target_key, mixture=config.mixture, population=zeros(512)
    )
    region = face_region(64)
    drawn = faces * (1 - region) + 0.25 * region
    error = np.asarray(drawn) - truth
    expected = {
        "reconstruction": (0.5 * known * (error**2).mean((1, 2, 3))).mean(),
        "texture": (known * np.abs(error).mean((1, 2, 3))).mean(),
        "attributes": 0.5 * ((drawn - faces) ** 2).mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    found = tiny.encode(params, identity_crop(soften(drawn, _amount(config))))
    np.testing.assert_allclose(
        metrics["cosine_twin"], (found * targets)[twin].sum(1).mean(), rtol=1e-3, atol=1e-5
    )


def _small_state(config):
    """Return a state of `_Net` and `_Judge`."""
    params, judge = {"grey": jnp.float32(0.25)}, {"slope": jnp.float32(1.0)}
    transform = states.optimizer(config)
    return states.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, batch_stats={},
        average={"params": params, "batch_stats": {}}, population=zeros(512), discriminator=judge,
        optimizer=transform.init(params), discriminator_optimizer=transform.init(judge),
    )  # fmt: skip


@pytest.fixture
def small_step(monkeypatch):
    """Return `run(*overrides, encode=...)`: the state after a step of `_Net`, and metrics."""
    monkeypatch.setattr(steps, "AEINet", lambda *_, **__: _Net())
    monkeypatch.setattr(steps, "discriminator_network", lambda _: _Judge())
    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,), devices=jax.devices()[:1])

    def run(*overrides, encode=tiny.encode):
        config = tiny.training_config("batch_size=24", *overrides)
        step = make_step(config, encode, mesh, frozen=True)
        pictures = jnp.asarray(tiny.pictures(24))
        state, params = _small_state(config), tiny.encoder_params()
        return jax.jit(step)(state, params, pictures, jax.random.key(0))

    return run


_JUDGED = {
    "adversarial", "texture", "discriminator", "discriminator_accuracy",
}  # fmt: skip


def test_without_an_adversarial_weight_nothing_is_judged(small_step, monkeypatch):
    state, metrics = small_step()
    assert metrics.keys() >= _JUDGED
    assert float(state.discriminator["slope"]) != 1.0
    monkeypatch.setattr(steps, "discriminator_network", lambda _: None)  # nothing to apply
    state, metrics = small_step("loss.adversarial=0")
    assert not metrics.keys() & _JUDGED
    assert float(state.discriminator["slope"]) == 1.0 and float(state.params["grey"]) != 0.25
    loss = tiny.training_config().loss
    terms = ("identity", "leak", "attributes", "reconstruction", "colour", "detail")
    total = sum(loss[name] * float(metrics[name]) for name in terms)
    np.testing.assert_allclose(metrics["total"], total, rtol=1e-5)


def test_without_a_texture_weight_the_truth_is_not_judged(small_step, monkeypatch):
    calls, apply = [], _Judge.apply
    monkeypatch.setattr(_Judge, "apply", lambda *args: (calls.append(1), apply(*args))[1])
    _, metrics = small_step("loss.texture=0")
    assert metrics.keys() & _JUDGED == _JUDGED - {"texture"} and len(calls) == 3
    _, metrics = small_step()
    assert metrics.keys() >= _JUDGED and len(calls) == 3 + 4


def test_without_an_attribute_weight_the_drawn_face_is_not_encoded(small_step, monkeypatch):
    calls, apply = [], _Net.apply
    monkeypatch.setattr(
        _Net, "apply", lambda *args, **how: (calls.append(how["method"]), apply(*args, **how))[1]
    )
    _, metrics = small_step("loss.attributes=0")
    assert "attributes" not in metrics and calls.count("attributes") == 1
    _, metrics = small_step()
    assert "attributes" in metrics and calls.count("attributes") == 3


def test_landmarks_are_those_of_the_drawn_face_and_of_the_original(small_step, monkeypatch):
    monkeypatch.setattr(steps.landmark_net, "load", dict)
    monkeypatch.setattr(steps.landmark_net, "find", lambda params, faces: faces)
    monkeypatch.setattr(
        steps.losses, "landmarks", lambda drawn, faces: 8.0 + ((drawn - faces) ** 2).mean() / 2
    )
    _, metrics = small_step("loss.landmarks=3")
    # `_Net` knows no better than L_att what it drew.
    np.testing.assert_allclose(metrics["landmarks"], 8.0 + metrics["attributes"], rtol=1e-5)
    _, without = small_step()
    assert "landmarks" not in without
    np.testing.assert_allclose(
        metrics["total"], without["total"] + 3 * metrics["landmarks"], rtol=1e-5
    )


@jax.custom_vjp
def _no_gradient(x):
    return x


def _forward(x):
    raise RuntimeError("a gradient is taken through the encoder")


_no_gradient.defvjp(_forward, lambda *_: None)


def test_without_identity_terms_the_encoder_has_no_backward_pass(small_step):
    def encode(params, crops):
        return tiny.encode(params, _no_gradient(crops))

    with pytest.raises(RuntimeError, match="through the encoder"):
        small_step(encode=encode)
    # Their values are still told.
    _, metrics = small_step("loss.identity=0", "loss.leak=0", encode=encode)
    assert float(metrics["identity"]) > 0 and float(metrics["cosine_target"]) != 0


def _amount(config):
    *_, soften_key = jax.random.split(jax.random.key(0), 4)
    return config.softening * jax.random.uniform(soften_key, (24,))


def test_losses_on_one_device_and_on_eight_that_share_the_state_agree(step, once, eight):
    """Apart by 4e-7 after one step; by 7e-5 after two.

    Adam first moves every parameter by the learning rate, so a gradient that
    rounds to the other side of zero moves the other way.
    """
    run = _runnable(*eight)
    before, state, one_first = once
    eight_state, eight_first = run(before, tiny.pictures(8), jax.random.key(0))
    _, one_second = step(state, tiny.pictures(8, seed=1), jax.random.key(1))
    _, eight_second = run(eight_state, tiny.pictures(8, seed=1), jax.random.key(1))
    for name in _LOSSES:
        np.testing.assert_allclose(eight_first[name], one_first[name], rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(eight_second[name], one_second[name], rtol=3e-4, err_msg=name)


def test_a_shared_state_stays_shared_and_in_its_buffers(once, eight):
    """The program gives every device's part of the state back in the memory it came in."""
    program, (held, _, _) = eight
    assert program.output_shardings[0] == held
    part = sum(
        int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(once[0]), jax.tree.leaves(held), strict=True)
    )
    assert part < 0.75 * sum(leaf.nbytes for leaf in jax.tree.leaves(once[0]))
    assert program.memory_analysis().alias_size_in_bytes == part


_EVERYTHING = ("compute=bfloat16", "accumulate=2", "remat=true", "fsdp=true", "batch_size=16")


def test_half_precision_is_that_of_the_networks_alone():
    config = tiny.training_config(*_EVERYTHING)
    lowered, _ = _lowered(config, 8)
    convolutions = [x for x in lowered.as_text().splitlines() if "stablehlo.convolution" in x]
    assert len(convolutions) > 50
    assert all("bf16" in x.rpartition("->")[2] for x in convolutions)
    state, metrics = jax.tree.map(lambda x: x.dtype, lowered.out_info)
    given = states.shapes(config)
    assert state == jax.tree.map(lambda x: x.dtype, given)
    assert set(metrics.values()) == {np.dtype(np.float32)}


@pytest.mark.slow
def test_half_precision_split_rematerialised_and_in_parts_makes_the_same_step():
    """Statistics are frozen: those of a part differ from those of a batch, and gradients more."""
    before, key = jax.device_get(states.create(tiny.training_config())), jax.random.key(0)
    after, metrics = {}, {}
    for devices, overrides in ((1, ["batch_size=16"]), (8, _EVERYTHING)):
        lowered, shardings = _lowered(tiny.training_config(*overrides), devices, frozen=True)
        run = _runnable(lowered.compile(), shardings)
        after[devices], metrics[devices] = run(before, tiny.pictures(16), key)
    assert jax.tree.map(lambda x: x.sharding, after[8]) == shardings[0]
    for name in _LOSSES:
        np.testing.assert_allclose(metrics[8][name], metrics[1][name], rtol=0.02, err_msg=name)
    for part in ("params", "discriminator"):
        pairs = zip(*(jax.tree.leaves(getattr(after[n], part)) for n in (1, 8)), strict=True)
        starts = jax.tree.leaves(getattr(before, part))
        # The first step moves every parameter by the learning rate, up or down.
        same = [np.sign(a - x) == np.sign(b - x) for (a, b), x in zip(pairs, starts, strict=True)]
        assert np.concatenate([x.ravel() for x in same]).mean() > 0.95


@pytest.mark.slow
def test_gradients_in_double_precision_agree_however_they_are_computed():
    """On eight devices, split, rematerialised, in parts: within 1e-10 of one device at once.

    Measured as the largest difference over the largest entry of the same array: gradients 6e-13,
    losses 2e-15. With float32 it is 8e-4 and 5e-7, and 4e-5 where statistics are frozen.
    """
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here.parent), *filter(None, sys.path)])
    # Eight devices as here, from XLA_FLAGS.
    run = subprocess.run(
        [sys.executable, here / "gradients_on_devices.py", "float64"],
        env=os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ways = json.loads(run.stdout)
    assert len(ways) == 5
    for name, apart in ways.items():
        assert apart["dtype"] == "float64"
        assert apart["losses"] < 1e-6, name
        for part in ("network", "discriminator", "statistics"):
            assert apart[part] < 1e-10, name
        assert apart["network"] > 0 or name.startswith("one")
