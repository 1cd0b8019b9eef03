import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from identitydp_jax.checks import UserError
from identitydp_jax.models import cut_source, prior
from identitydp_jax.models.aeinet import variable_shapes
from identitydp_jax.training import state as states
from identitydp_jax.training.export import export


@pytest.fixture(scope="module")
def state():
    return states.create(tiny.training_config())


def test_holds_the_variables_that_the_networks_have(state):
    shapes = variable_shapes(states.network_config(tiny.training_config()))
    found = {"params": state.params, "batch_stats": state.batch_stats}
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, shapes)
    assert set(state.discriminator) == {"scale0", "scale1", "scale2"}
    assert int(state.step) == 0


def test_kernels_have_the_variance_that_keeps_signals_alive(state):
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.discriminator)):
        name = path[-1].key
        if name == "kernel" and path[-2].key == "identity":
            # AAD layers start without a say of the identity.
            np.testing.assert_array_equal(leaf, 0)
        elif name == "kernel" and leaf.size >= 1024:
            fan_in = np.prod(leaf.shape[:-1])
            np.testing.assert_allclose(leaf.std() * np.sqrt(fan_in), 1, rtol=0.15)
        elif name == "scale":
            np.testing.assert_array_equal(leaf, 1)
        elif name == "bias":
            np.testing.assert_array_equal(leaf, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.batch_stats):
        np.testing.assert_array_equal(leaf, 1.0 if path[-1].key == "var" else 0.0)


def test_no_two_kernels_of_one_shape_are_equal(state):
    kernels = [
        np.asarray(leaf).ravel()
        for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.discriminator))
        if path[-1].key == "kernel" and path[-2].key != "identity"
    ]
    firsts = [float(kernel[0]) for kernel in kernels]
    assert len(set(firsts)) == len(firsts)


def test_seeds_decide_the_state(state):
    again, other = (states.create(tiny.training_config(f"seed={seed}")) for seed in (0, 1))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernel = state.params["encoder"]["down3"]["kernel"]
    assert np.abs(kernel - other.params["encoder"]["down3"]["kernel"]).max() > 0.01


def test_average_starts_as_a_copy_with_buffers_of_its_own(state):
    for a, b in zip(
        jax.tree.leaves(state.average),
        jax.tree.leaves({"params": state.params, "batch_stats": state.batch_stats}),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        # The loop donates the state: one buffer must not be given twice.
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()


def test_what_draws_faces_is_averaged_and_has_a_population(state):
    average = jax.tree.map(lambda x: x + 1, state.average)
    moved = state.replace(average=average, population={"mean": jnp.ones(3)})
    assert moved.variables == {**average, "population": moved.population}
    assert jax.tree.map(lambda x: x.shape, state.population) == {
        "mean": (512,), "basis": (512, 512), "deviation": (512,),
    }  # fmt: skip
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.population))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_optimizer_is_adam_with_the_momentum_of_the_configuration(momentum):
    config = tiny.training_config(
        "learning_rate=0.5", "freeze_statistics_at=5", "frozen_rate=0.25", f"momentum={momentum}"
    )
    ours, rng = states.optimizer(config), np.random.default_rng(0)
    # From entries far below Adam's epsilon, 1e-8, to far above it, and none.
    size = np.append(np.geomspace(1e-12, 1e4, 60), 0.0)
    with jax.numpy_dtype_promotion("standard"):
        moments = ours.init(jnp.zeros(61))
        stock = {rate: optax.adam(rate, b1=momentum, b2=0.999) for rate in (0.5, 0.125)}
        adam = stock[0.5].init(jnp.zeros(61))
        for i in range(8):
            gradient = jnp.asarray(size * rng.normal(size=61), jnp.float32)
            updates, moments = ours.update(gradient, moments)
            expected, adam = stock[0.5 if i < 5 else 0.125].update(gradient, adam)
            np.testing.assert_allclose(updates, expected, rtol=5e-7)


def test_statistics_that_never_freeze_never_slow_the_optimizer_down():
    config = tiny.training_config("learning_rate=0.5", "frozen_rate=0.25")
    config.freeze_statistics_at = None
    ours, stock = states.optimizer(config), optax.adam(0.5, b1=config.momentum, b2=0.999)
    with jax.numpy_dtype_promotion("standard"):
        moments, adam = ours.init(jnp.zeros(3)), stock.init(jnp.zeros(3))
        for _ in range(5):
            updates, moments = ours.update(jnp.ones(3), moments)
            expected, adam = stock.update(jnp.ones(3), adam)
            np.testing.assert_allclose(updates, expected, rtol=5e-7)


def test_large_gradients_are_clipped_to_the_norm_of_the_configuration():
    plain, clipped = (states.optimizer(tiny.training_config(f"clip={x}")) for x in (0, 2))
    rng, params = np.random.default_rng(0), {"a": jnp.zeros(3), "b": jnp.zeros(4)}
    with jax.numpy_dtype_promotion("standard"):
        expected, moments = plain.init(params), clipped.init(params)
        for norm in (5.0, 0.5, 40.0):
            gradient = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), params)
            length = optax.tree.norm(gradient)
            gradient = jax.tree.map(lambda x, s=norm / length: s * x, gradient)
            share = min(1.0, 2.0 / norm)
            short = jax.tree.map(lambda x, s=share: s * x, gradient)
            wanted, expected = plain.update(short, expected)
            found, moments = clipped.update(gradient, moments)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5)


def _prior_config(*overrides):
    return tiny.training_config("network.coarse=64", *overrides, name="prior128")


def test_a_pretrained_generator_is_taken_over():
    with tiny.small_source() as source:
        created = states.create(_prior_config())
        kept = cut_source.pretrained(source, 64)
        styles = prior.some_styles(source)
    found = created.params["generator"]
    for name, layer in kept.items():
        jax.tree.map(np.testing.assert_array_equal, found[name], layer)
    np.testing.assert_allclose(found["style_mean"], styles.mean(0), atol=1e-5)
    np.testing.assert_allclose(found["style_deviation"], styles.std(0), atol=1e-5)
    gain = np.ravel(found["styles"]["gain"])
    assert gain.shape == (5,) and (gain > 0).all() and set(gain.argsort()[-2:]) == {2, 3}
    # What is added starts without a say, and the rest as any network.
    assert not created.batch_stats
    for path, leaf in jax.tree_util.tree_leaves_with_path(created.params):
        names = [key.key for key in path]
        if names[-1] != "kernel" or (names[0] == "generator" and names[1] in kept):
            continue
        zero = names[-2] in ("rest", "scene", "both", "change", "share", "logit")
        assert np.any(leaf) != zero, names


def test_a_run_on_a_pretrained_generator_starts_from_its_stage_before(tmp_path):
    with tiny.small_source():
        start = states.create(_prior_config("seed=5"))
        moved = jax.tree.map(lambda x: x + 0.5, start.variables)
        export(
            tmp_path / "start.safetensors", _prior_config(), moved, steps=0, command="identitydp"
        )
        found = states.create(_prior_config(), start_from=tmp_path / "start.safetensors")
    for value, given in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(moved["params"]), strict=True
    ):
        np.testing.assert_array_equal(value, np.float32(np.float16(given)))


def test_optimizer_keeps_two_moments_per_parameter(state):
    for moments, params in (
        (state.optimizer, state.params),
        (state.discriminator_optimizer, state.discriminator),
    ):
        arrays = [leaf for leaf in jax.tree.leaves(moments) if leaf.ndim]
        assert [x.shape for x in arrays] == 2 * [x.shape for x in jax.tree.leaves(params)]


def _exported(folder, *overrides, finer=True):
    """Write the start of a run of another seed as a model file; return file and state."""
    config = tiny.training_config("seed=5", *overrides)
    config.unlock()
    config.network.finer = finer
    state, path = states.create(config), folder / "start.safetensors"
    export(path, config, state.variables, steps=0, command="identitydp train")
    return path, state


def _flat(*trees):
    flat = flax.traverse_util.flatten_dict
    return [flat({"params": s.params, "batch_stats": s.batch_stats}) for s in trees]


# A coarser network; and one whose convolutions over the attribute maps have another shape.
@pytest.mark.parametrize(
    ("changed", "finer"), [((), False), (("network.attribute_kernel=3",), True)]
)
def test_a_run_starts_from_the_layers_that_a_model_file_has_too(state, tmp_path, changed, finer):
    path, start = _exported(tmp_path, *changed, finer=finer)
    found = states.create(tiny.training_config(), start_from=path)
    flat, given, drawn = _flat(found, start, state)
    assert flat.keys() == drawn.keys()
    taken = {name for name in flat if name in given and given[name].shape == flat[name].shape}
    for name, value in flat.items():
        expected = np.float32(np.float16(given[name])) if name in taken else drawn[name]
        np.testing.assert_array_equal(value, expected, err_msg=str(name))
    # They would differ otherwise, in either direction.
    assert any((given[name] != drawn[name]).any() for name in taken)
    left = [name for name in flat if name not in taken and np.any(drawn[name])]
    assert left and len(taken) > len(flat) / 2
    for average, value in zip(
        jax.tree.leaves(found.average),
        jax.tree.leaves({"params": found.params, "batch_stats": found.batch_stats}),
        strict=True,
    ):
        np.testing.assert_array_equal(average, value)


def test_moments_and_discriminator_do_not_come_from_a_model_file(state, tmp_path):
    path, _ = _exported(tmp_path)
    found = states.create(tiny.training_config(), start_from=path)
    for name in ("discriminator", "optimizer", "discriminator_optimizer", "population", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(found, name), getattr(state, name))


def test_a_model_of_another_encoder_is_no_start(tmp_path):
    path, _ = _exported(tmp_path)
    with pytest.raises(UserError, match="trained with w600k_mbf, this run is to use sface") as said:
        states.create(tiny.training_config("encoder=sface"), start_from=path)
    assert str(path) in str(said.value) and "\n" not in str(said.value)
    with pytest.raises(UserError, match="no model can be read here"):
        states.create(tiny.training_config(), start_from=tmp_path / "none.safetensors")
