"""Which checks an audit does of each mechanism, and what each claims."""

import functools
import math
from collections.abc import Iterator

import jax
import numpy as np
from scipy import special

from identitydp_jax.privacy import (
    accounting,
    audit,
    audit_examples,
    audit_laplace,
    discrete_gaussian,
    lattice,
    mechanism,
    privunit,
)
from identitydp_jax.privacy import audit_statistics as statistics
from identitydp_jax.privacy.audit import Finding, Law, Pair, Release
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.setting import DELTA, PrivacySetting

FLOAT_LAPLACE = "float-laplace"
EPSILONS = {
    "laplace": (0.01, 0.57, 1.0, 6.0, 100.0, 1000.0, 10_000.0),
    "privunit": (0.01, 0.57, 1.0, 6.0, 60.0, 600.0),
    "gaussian": (0.57, 1.0, 6.0, 100.0, 1000.0),
    "random": (0.0,),
    FLOAT_LAPLACE: (0.01, 6.0, 100.0),
}
_WHOLE = (1.0, 6.0)  # epsilons that a pair of inputs in one coordinate shows whole
_MOST_ROUNDS = 8  # of PrivUnit, where draws are affordable
_EXAMPLE_WIDTH = 8


def run(
    name: str, epsilons, calibration: str, *, seed: int, dimension: int = EMBEDDING_DIM
) -> Iterator[Finding]:
    """Do all checks of a mechanism, one after the other.

    Args:
      name: of `EPSILONS`.
      epsilons: nominal budgets.
      calibration: as `PrivacySetting` takes it; of ``laplace``.
      seed: public, of all keys.
      dimension: length of the embeddings; the example that is broken has it for 512 alone.

    Raises:
      UserError: a setting is refused.
    """
    if name == FLOAT_LAPLACE:
        yield from _float_laplace(epsilons, seed)
        return
    settings = [PrivacySetting(name, epsilon, calibration, dimension) for epsilon in epsilons]
    suite = {"laplace": _laplace, "privunit": _privunit, "gaussian": _gaussian, "random": _random}
    yield from suite[name](settings, seed)


def releasing(setting: PrivacySetting) -> Release:
    """Return the mechanism of a setting, as everything else runs it, for any width.

    Fewer coordinates than the setting has show more with less work.
    """
    arrays = setting.arrays

    def release(embedding, key):
        return _release(embedding, key, setting.mechanism, arrays)

    return release


@functools.partial(jax.jit, static_argnums=2)
def _release(embedding, key, name, arrays):
    return mechanism.release(embedding, key=key, mechanism=name, arrays=arrays)


def _laplace(settings, seed: int) -> Iterator[Finding]:
    width = settings[0].dimension
    whole = [PrivacySetting("laplace", e, "certified-l1:1", width) for e in _WHOLE]
    error = audit.LOWER_BOUND_ERROR / (len(settings) + len(whole))
    for setting in settings:
        # Of `paper` the nominal epsilon is not what any face is certified.
        share = setting.calibration.certified_sensitivity / setting.calibration.sensitivity
        yield audit.check_exact(
            _subject(setting),
            nominal=setting.epsilon * share,
            exact=lattice.exact_epsilon(setting.noise),
        )
    for setting in [*settings, *whole]:
        pair, release = audit_laplace.opposites(setting.noise), releasing(setting)
        yield audit.check_lower_bound(release, pair, _subject(setting), error=error, seed=seed)
    for setting in settings:
        release, noise, subject = releasing(setting), setting.noise, _subject(setting)
        yield audit_laplace.check_distribution(release, noise, subject, seed=seed, width=width)
        yield audit_laplace.check_support(release, noise, subject, seed=seed, width=width)
        yield audit_laplace.check_guard(release, noise, subject, seed=seed, width=width)
    yield from _of_any(settings[-1], seed)


def _privunit(settings, seed: int) -> Iterator[Finding]:
    few = [setting for setting in settings if setting.noise.rounds <= _MOST_ROUNDS]
    width = settings[0].dimension
    signs = np.random.default_rng(0).choice([-1.0, 1.0], width)
    row = (signs / math.sqrt(width)).astype(np.float32)
    for setting in settings:
        exact = privunit.exact_epsilon(setting.noise)
        yield audit.check_exact(_subject(setting), nominal=setting.epsilon, exact=exact)
    for setting in few:
        pair = Pair(row, -row, privunit.exact_epsilon(setting.noise))
        yield audit.check_lower_bound(
            releasing(setting),
            pair,
            _subject(setting),
            error=audit.LOWER_BOUND_ERROR / len(few),
            seed=seed,
            draws=2**12 // setting.noise.rounds,
        )
    yield from _of_any(min(settings, key=lambda setting: setting.noise.rounds), seed)


def _gaussian(settings, seed: int) -> Iterator[Finding]:
    for setting in settings:
        rho = discrete_gaussian.exact_rho(setting.noise)
        spent = accounting.epsilon_at(DELTA, [accounting.GaussianLoss(rho)])
        yield audit.check_exact(
            _subject(setting),
            nominal=setting.epsilon,
            exact=spent,
            kind=f"epsilon at delta {DELTA:g}",
            within=0.01 * setting.epsilon,  # the length is a whole number
        )
    error = audit.LOWER_BOUND_ERROR / len(settings)
    for setting in settings:
        release, subject = releasing(setting), _subject(setting)
        pair = _gaussian_opposites(setting.noise)
        yield audit.check_lower_bound(release, pair, subject, error=error, seed=seed)
        law, width = _gaussian_law(setting.noise), setting.dimension
        yield audit.check_distribution(release, law, subject, seed=seed, width=width)
    yield from _of_any(settings[-1], seed)


def _gaussian_opposites(noise) -> Pair:
    """Return two unit embeddings (2,), opposite in a coordinate, of a rho that draws show."""
    rho, resolution = discrete_gaussian.exact_rho(noise), noise.resolution
    sine = min(1.0, math.sqrt(4.0 / rho))
    share = min(1.0, sine + 2**-15 + 1 / resolution)
    one, other = (np.array([s * sine, math.sqrt(1 - sine**2)], np.float32) for s in (1, -1))
    return Pair(one, other, rho * share**2, kind="rho")


def _gaussian_law(noise) -> Law:
    arrays = noise.arrays()
    table = np.asarray(arrays.table, np.float64) @ (2.0 ** np.array([-33, -65, -97, -129]))
    quantiles = (1 - np.arange(1, 32) / 32) / 2
    return Law(
        quantize=lambda row: np.asarray(discrete_gaussian.quantize(row, arrays=arrays)),
        survival=lambda size: table[size],
        sizes=tuple(np.unique(np.searchsorted(-table[2:], -quantiles) + 2).tolist()),
    )


def _random(settings, seed: int) -> Iterator[Finding]:
    (setting,) = settings
    release, subject, width = releasing(setting), "random", setting.dimension
    yield audit.check_input_unused(release, subject, seed=seed, width=width)
    law = Law(
        quantize=lambda row: np.zeros(row.shape, np.int32),
        survival=lambda size: special.bdtrc(31 + size, 64, 0.5),
        sizes=tuple(range(2, 16)),
    )
    yield audit.check_distribution(release, law, subject, seed=seed, width=width)
    yield from _of_any(setting, seed)


def _of_any(setting: PrivacySetting, seed: int) -> Iterator[Finding]:
    """Check what is the same for every budget, as one compiled program serves all."""
    release, subject, width = releasing(setting), _subject(setting), setting.dimension
    yield audit.check_independence(release, subject, seed=seed, width=width)
    yield audit.check_keys(release, subject, seed=seed, width=width)
    yield audit.check_determinism(release, subject, seed=seed, width=width)


def _float_laplace(epsilons, seed: int) -> Iterator[Finding]:
    """Break the example: by the outputs that are possible for one of two opposite inputs alone."""
    scales = {epsilon: PrivacySetting("laplace", epsilon).scale for epsilon in epsilons}
    for epsilon, scale in scales.items():
        value, subject = 1 / math.sqrt(EMBEDDING_DIM), f"epsilon {epsilon:g}"
        every = audit_examples.every_output(value, scale)
        held = [
            audit_examples.possible(_draw_floats(sign * value, scale, seed), every)
            for sign in (1, -1)
        ]
        lost = 1 - float(held[1].mean())
        figures = f"{lost:.1%} of a coordinate's outputs are impossible under the other input"
        yield Finding("support", subject, lost == 0.0, figures, lost)
        counts = np.array([np.sum(rows.all(axis=1)) for rows in held])
        error = audit.LOWER_BOUND_ERROR / len(scales) / 2
        low, high = statistics.proportion_bounds(counts, audit.DRAWS, error)
        bound = max(0.0, math.log(low[0] / high[1]))
        claim = epsilon * _EXAMPLE_WIDTH / EMBEDDING_DIM
        figures = (
            f"epsilon of inputs that differ in {_EXAMPLE_WIDTH} of 512 coordinates is at least"
            f" {bound:.3g}, claimed {claim:.3g} ({audit.DRAWS} draws of each)"
        )
        yield Finding("lower bound", subject, bound <= claim, figures, bound)


def _draw_floats(value: float, scale: float, seed: int) -> np.ndarray:
    """Return outputs of the example, float32 (DRAWS, width), for coordinates of one value."""
    rows = np.full((audit.DRAWS, _EXAMPLE_WIDTH), value, np.float32)
    (secret,) = audit.derive_keys(seed, f"float-laplace {value}", 1)
    root = jax.random.wrap_key_data(jax.random.bits(secret, (2,)), impl="threefry2x32")
    return audit_examples.release_floats(rows, jax.random.split(root, len(rows)), scale)


def _subject(setting: PrivacySetting) -> str:
    if setting.mechanism == "random":
        return "random"
    name = f" {setting.calibration.name}" if setting.mechanism == "laplace" else ""
    return f"epsilon {setting.epsilon:g}{name}"
