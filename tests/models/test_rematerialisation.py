"""Computing blocks again instead of keeping their insides."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from identitydp_jax.models.aeinet import AEINet

# XLA's CPU backend drops the barriers that keep it from joining both computations again, so what
# is tested here is the program of the backends that heed them; and it is compiled quickly.
_HEEDING_BARRIERS = {
    "xla_disable_hlo_passes": "cse_barrier_expander",
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def _gradient(remat):
    """Return the compiled gradient of a training pass of the generator, and arguments for it."""
    net = AEINet(tiny.CONFIG, remat=remat)

    def loss(params, rest, identity, maps):
        drawn, updates = net.apply(
            {"params": params, **rest}, identity, maps, train=True, method="draw",
            mutable=["batch_stats"],
        )  # fmt: skip
        return (drawn**2).mean(), updates

    variables = tiny.variables()
    params = variables.pop("params")
    rng = np.random.default_rng(0)

    def rows(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def attributes(faces):
        return net.apply({"params": params, **variables}, faces, method="attributes")

    shapes = jax.eval_shape(attributes, rows(16, 64, 64, 3))
    args = (params, variables, rows(16, 512) / 512**0.5, [rows(*x.shape) for x in shapes])
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    return gradient.lower(*args).compile(compiler_options=_HEEDING_BARRIERS), args


def test_takes_less_memory_for_the_same_gradient():
    kept, args = _gradient(False)
    again, _ = _gradient(True)
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (again, kept)]
    assert sizes[0] < 0.6 * sizes[1]
    for a, b in zip(jax.tree.leaves(kept(*args)), jax.tree.leaves(again(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())
