"""Checks that a mechanism does what it claims, from outside: pure functions, one finding each.

A mechanism is a callable `release(embedding, key) -> codes`: float32 (n, d) and typed ChaCha20
keys (n,) in, int32 (n, d) out, for any d up to 512, compiled or not. The checks look at nothing
else of it: a wrong one can be put in the place of the real one and must fail. What it claims is
given beside it. Every check draws with keys that anybody can derive again from a public seed, so it
finds the same every time. Over seeds, a right mechanism fails a statistical check with a
probability of at most `FALSE_ALARM`, and any of the lower bounds with `LOWER_BOUND_ERROR`.
`audit_laplace` has the checks that know the discrete Laplace mechanism and its lattice.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import jax
import numpy as np

from identitydp_jax.privacy import audit_statistics as statistics
from identitydp_jax.privacy import keys

Release = Callable[[np.ndarray, jax.Array], jax.Array]

EXACTNESS = 1e-6  # how far an exact epsilon may lie from the nominal one
LOWER_BOUND_ERROR = 0.05  # the false alarm of all lower bounds of an audit together
FALSE_ALARM = 1e-6  # of each other statistical check
DRAWS = 2**17  # of each input, to choose the event by, and again to count it
_VALUES = 2**17  # of a batch
_STRETCH = 0.1  # of the noise: what the distribution check must notice
_ORDERS = np.geomspace(1.001, 50, 100)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
      check: its name, one of `audit_report.STATEMENTS`.
      subject: what it was run on, for example `epsilon 6`.
      passed: whether the mechanism is as it claims.
      figures: what was found and against what, in words.
      value: the number that decided; what it is depends on the check.
    """

    check: str
    subject: str
    passed: bool
    figures: str
    value: float


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """Two inputs, and how far a mechanism says that their codes can be told apart.

    Attributes:
      one, other: float32 (d,).
      claim: the epsilon of these two, or their rho.
      kind: `epsilon` or `rho`.
    """

    one: np.ndarray
    other: np.ndarray
    claim: float
    kind: str = "epsilon"


@dataclasses.dataclass(frozen=True, eq=False)
class Law:
    """What additive, symmetric integer noise claims to be.

    Attributes:
      quantize: gives the integers (..., d) that the noise is added to, of embeddings.
      survival: gives the exact probability of noise k or more, for k from 1.
      sizes: rising, from 2: bounds of cells for the size of the noise, nearly equally likely.
    """

    quantize: Callable[[np.ndarray], np.ndarray]
    survival: Callable[[int], Fraction | float]
    sizes: tuple[int, ...]


def derive_keys(seed: int, label: str, count: int):
    """Return ChaCha20 keys (count,) that anybody can derive from a public seed and a label."""
    digest = hashlib.sha256(label.encode()).digest()
    root = keys.image_key(keys.audit_master(seed), digest=digest, policy="audit")
    return jax.random.split(root, count)


def draw(release: Release, embedding, *, count: int, seed: int, label: str) -> np.ndarray:
    """Return independent releases of one embedding (d,): codes (count, d)."""
    size = min(count, max(1, _VALUES // len(embedding)))
    rows = np.broadcast_to(np.asarray(embedding, np.float32), (size, len(embedding)))
    labels = [f"{label}, batch {i}" for i in range(-(-count // size))]
    batches = [np.asarray(release(rows, derive_keys(seed, each, size))) for each in labels]
    return np.concatenate(batches)[:count]


def check_exact(
    subject: str, *, nominal: float, exact: float, kind: str = "epsilon", within: float = EXACTNESS
) -> Finding:
    """Whether an exact budget is at most the nominal one, and less by no more than `within`.

    `nominal` and `exact` are in the unit `kind`. The float nearest to the exact budget may be the
    next above the nominal one.
    """
    near = nominal - within <= exact <= math.nextafter(nominal, math.inf)
    figures = f"{kind} {exact!r} by the implemented integers, {nominal!r} claimed"
    return Finding("exact epsilon", subject, near, figures, exact)


def check_lower_bound(
    release: Release, pair: Pair, subject: str, *, error: float, seed: int, draws: int = DRAWS
) -> Finding:
    """Whether counting shows that a pair of inputs can be told apart better than is claimed.

    The codes are projected on the difference of the inputs. Half of the draws choose the threshold
    that shows most; with the other half, the probabilities of passing it under the one and the
    other are bounded by Clopper and Pearson, each with half the error. For epsilon, the bound is
    the logarithm of their ratio; for rho, the largest Renyi divergence of the two events over its
    order. The false alarm is at most `error`.

    Args:
      release: the mechanism.
      pair: of inputs.
      subject: for the finding.
      error: probability with which the bound, of a right mechanism, may pass the claim.
      seed: of the keys.
      draws: of each input for choosing, and as many for counting.
    """
    direction = np.asarray(pair.one, np.float64) - pair.other
    passing = []
    for name, embedding in (("one", pair.one), ("other", pair.other)):
        label = f"lower bound, {subject}, {name}"
        codes = draw(release, embedding, count=2 * draws, seed=seed, label=label)
        passing.append((codes @ direction).reshape(2, draws))
    chosen, counted = (tuple(np.sort(half[i]) for half in passing) for i in (0, 1))
    levels = np.quantile(np.concatenate(chosen), np.linspace(0, 1, 257)[1:-1])
    threshold = levels[np.argmax(_shown(chosen, levels, pair.kind, error))]
    bound = float(_shown(counted, threshold, pair.kind, error))
    figures = (
        f"{pair.kind} of the pair is at least {bound:.4g}, claimed {pair.claim:.4g}"
        f" ({draws} draws of each, confidence {1 - error:.3%})"
    )
    return Finding("lower bound", subject, bound <= pair.claim, figures, bound)


def _shown(sorted_pair, threshold, kind: str, error: float):
    """Return the lower bound that passing a threshold shows, from sorted draws of each input."""
    total = len(sorted_pair[0])
    counts = [total - np.searchsorted(half, threshold) for half in sorted_pair]
    (p, _), (_, q) = (statistics.proportion_bounds(count, total, error / 2) for count in counts)
    with np.errstate(divide="ignore"):
        if kind == "epsilon":
            return np.maximum(0.0, np.log(p) - np.log(q))
        return np.where(p > q, _renyi(p, np.minimum(q, p)), 0.0)


def _renyi(p, q):
    """Return the largest D_alpha(p || q) / alpha of two events, over some orders alpha."""
    p, q = np.asarray(p)[..., None], np.maximum(np.asarray(q)[..., None], 1e-300)
    yes = _ORDERS * np.log(p) + (1 - _ORDERS) * np.log(q)
    no = _ORDERS * np.log1p(-p) + (1 - _ORDERS) * np.log1p(-q)
    return np.max(np.logaddexp(yes, no) / ((_ORDERS - 1) * _ORDERS), axis=-1)


def check_distribution(
    release: Release, law: Law, subject: str, *, seed: int, rows: int = 1024, width: int = 512
) -> Finding:
    """Whether the noise has its exact law: a chi-square over the cells of each sign.

    The noise is the codes of a random embedding, less its integers. As a control, the same draws
    stretched or shrunk by a tenth must be refused: if not, the check has no power and fails.
    """
    row = np.random.default_rng(1).normal(size=width).astype(np.float32)
    label = f"distribution, {subject}"
    noise = draw(release, row, count=rows, seed=seed, label=label) - law.quantize(row)
    p = _fit(law, noise)
    controls = [_fit(law, np.rint(noise * (1 + sign * _STRETCH))) for sign in (1, -1)]
    passed = p > FALSE_ALARM and max(controls) < FALSE_ALARM
    figures = (
        f"p = {p:.2g} for {noise.size} codes; at most {max(*controls, 1e-300):.0e} if they are"
        f" stretched or shrunk by {_STRETCH:.0%}"
    )
    return Finding("distribution", subject, passed, figures, p)


def _fit(law: Law, noise) -> float:
    """Return the p-value of noise in the cells of a law; no noise at all is in the first."""
    beyond = [law.survival(size) for size in (1, *law.sizes)] + [0]
    sides = [[1 - beyond[0], *beyond[1:]], beyond]
    expected = [float(a - b) for side in sides for a, b in itertools.pairwise(side)]
    cells = np.searchsorted(law.sizes, np.abs(noise), side="right")
    cells = np.where(noise < 0, cells + len(law.sizes) + 1, cells).ravel()
    return statistics.goodness_of_fit(np.bincount(cells, minlength=len(expected)), expected)


def check_input_unused(release: Release, subject: str, *, seed: int, width: int = 512) -> Finding:
    """Whether the codes are the same whatever the input, under the same keys: epsilon is 0."""
    rows = hostile_embeddings(width)
    codes = [
        np.asarray(release(batch, derive_keys(seed, "input unused", len(rows))))
        for batch in (rows, np.zeros_like(rows))
    ]
    differ = int(np.sum(codes[0] != codes[1]))
    figures = f"{differ} codes of {len(rows)} hostile inputs differ from those of zero, same keys"
    return Finding("input unused", subject, differ == 0, figures, differ)


def check_independence(
    release: Release, subject: str, *, seed: int, rows: int = 2048, width: int = 512
) -> Finding:
    """Whether codes of different coordinates, and of different keys, have independent noise.

    Releases of zero with `width` coordinates: signs, and whether sizes are above the median, are
    multiplied for every pair of coordinates and of up to 512 rows, and the sums compared with
    Hoeffding's inequality. Rows or coordinates that share their random words are found with
    certainty.
    """
    codes = draw(release, np.zeros(width), count=rows, seed=seed, label="independence")
    untied, sizes = _untied(codes), _untied(np.abs(codes))
    large = sizes - np.median(sizes)
    tables = [untied, large, untied[:512].T, large[:512].T]
    p = min(1.0, 4 * min(map(statistics.sign_dependence, tables)))
    figures = f"p = {p:.2g} over all pairs of {width} coordinates and of {min(rows, 512)} keys"
    return Finding("independence", subject, p > FALSE_ALARM, figures, p)


def _untied(codes):
    """Return codes moved by less than a half: ties are broken by fair, fixed coins."""
    return codes + np.random.default_rng(0).uniform(-0.5, 0.5, codes.shape)


def check_determinism(release: Release, subject: str, *, seed: int, width: int = 512) -> Finding:
    """Whether a row's codes are the same for any batch and order, jitted or not."""
    rows = np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)

    def codes(index, label="determinism"):
        return np.asarray(release(rows[index], derive_keys(seed, label, 8)[index]))

    whole = codes(np.arange(8))
    other = np.array([7, 2, 0])
    with jax.disable_jit():
        eager = codes(np.arange(1))
    same = {
        "batch of 1": (whole[:1], codes(np.arange(1))),
        "batch of 3, another order": (whole[other], codes(other)),
        "not jitted": (whole[:1], eager),
    }
    differ = [name for name, (a, b) in same.items() if not np.array_equal(a, b)]
    if np.mean(whole == codes(np.arange(8), "determinism, another key")) > 0.75:  # signs: 0.5
        differ.append("another key gives the same codes")
    figures = "; ".join(differ) or "the same codes in batches of 1, 3 and 8, jitted or not"
    return Finding("determinism", subject, not differ, figures, float(len(differ)))


def check_keys(release: Release, subject: str, *, seed: int, width: int = 512) -> Finding:
    """Whether keys of other photos, crops, boxes and policies give other, independent noise.

    128 keys of `keys.face_key` and `keys.subject_key`, from one master: 4 photos, 4 policies, 7
    pairs of a crop and a box, and a subject. The signs of `width` codes each are compared as in
    `check_independence`.
    """
    master = keys.audit_master(seed)
    photos = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
    policies = [f"laplace;epsilon={epsilon}" for epsilon in (1, 6, 60, 600)]
    faces = list(itertools.product(range(4), photos[:2]))[:7]
    derived = [
        keys.face_key(master, digest=photo, crop=crop, policy=policy, box=np.arange(4) + box)
        for photo, policy, (box, crop) in itertools.product(photos, policies, faces)
    ]
    derived += [
        keys.subject_key(master, subject="person", digest=photo, policy=policy)
        for photo, policy in itertools.product(photos, policies)
    ]
    words = np.stack([jax.random.key_data(key) for key in derived])
    rows = np.zeros((len(words), width), np.float32)
    impl = jax.random.key_impl(derived[0])
    codes = np.asarray(release(rows, jax.random.wrap_key_data(words, impl=impl)))
    p = statistics.sign_dependence(_untied(codes).T)
    distinct = len(np.unique(words, axis=0)) == len(words)
    figures = (
        f"{len(words)} keys, {'all different' if distinct else 'NOT all different'}, p = {p:.2g}"
    )
    return Finding("keys", subject, distinct and p > FALSE_ALARM, figures, p)


def hostile_embeddings(width: int = 512) -> np.ndarray:
    """Return float32 (n, width): NaN, infinities, huge and tiny norms, single axes, any bits."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(8, width)).astype(np.float32)
    bits = rng.integers(0, 2**32, (8, width), np.uint32).view(np.float32)
    finite = np.where(np.isfinite(bits), bits, np.float32(1))
    limits, axis = np.finfo(np.float32), np.eye(1, width, dtype=np.float32)
    sizes = np.float32([1, -1, limits.max, limits.smallest_subnormal, np.nan, np.inf])
    flat = np.repeat(sizes[:, None], width, axis=1)
    spoiled = normal[:2].copy()
    spoiled[[0, 1], [3, 4]] = np.nan, -np.inf
    special = [flat, axis, -limits.max * axis, spoiled, np.sign(normal[:4])]
    return np.concatenate([*special, normal, bits, finite])
