"""Parrot attack: a recogniser that has learned what known people look like anonymized.

The attacker anonymizes labelled photos of the people with the same program, retrains the head of a
recogniser on the results, and names new anonymized photos, made under keys that he doesn't have
(Newton et al., "Preserving privacy by de-identifying face images", 2005).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from identitydp_jax.evaluation import people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Report

VERIFIERS = ("edgeface",)
_LEAST = 4  # photos of a person: two to learn from, two to be named
_RELEASES = 3  # of every photo to learn from
_STEPS, _RATE, _DECAY, _SCALE = 1000, 0.05, 1e-4, 8.0

_NOTES = (
    "{who} Of each person every other photo, anonymized under {releases} keys, trains the head"
    " (softmax regression on the frozen embedding); the rest, under fresh keys, is named.",
    "`original` is the same attack on untouched photos, the ceiling.",
    "TAR: true accept rate at a false accept rate of 1e-3 of the head's scores.",
)


def run(bench: Bench) -> Report:
    """Train a head per candidate and verifier, and name the held-out photos."""
    verifiers = bench.load_verifiers(VERIFIERS)
    index = people.with_photos(bench.people, _LEAST)
    learned, named = people.split_photos(bench.people, index)
    releases = bench.releases or _RELEASES
    rows = {}
    for candidate in (bench.original, *bench.candidates()):
        rows[candidate.name] = {}
        shown = [
            bench.measure(candidate, verifiers, release=release, index=learned)
            for release in range(releases)
        ]
        new = bench.measure(candidate, verifiers, release=releases, index=named)
        for verifier in verifiers:
            known = np.concatenate([part[verifier.name] for part in shown])
            labels = np.tile(bench.people[learned], releases)
            figures = attack(known, labels, new[verifier.name], bench.people[named])
            rows[candidate.name] |= {f"{k} {verifier.name}": v for k, v in figures.items()}
    luck = people.chance(bench.people[named], np.unique(bench.people[learned]))
    rows["chance"] = {f"{k} {v.name}": f for v in verifiers for k, f in luck.items()}
    facts = {"who": people.describe(bench.people, index, _LEAST), "releases": releases}
    return Report("parrot", "Parrot attack", rows, [note.format(**facts) for note in _NOTES])


def attack(known, known_names, new, new_names):
    """Train a head on embeddings (N, D) of named faces and recognise new ones (M, D)."""
    names, labels = np.unique(known_names, return_inverse=True)
    weights, offsets = _train_head(_scaled(known), labels, len(names))
    scores = np.asarray(_scaled(new) @ weights + offsets)
    scores = scores - scores.max(axis=1, keepdims=True)
    # A row of probabilities against the corners of the simplex: the nearest is the likeliest.
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return people.recognition(chances, np.eye(len(names)), new_names, names)


def _scaled(embeddings):
    return jnp.asarray(_SCALE * people.unit(embeddings), jnp.float32)


def _train_head(x, labels, classes: int):
    """Fit softmax regression on the whole set at once: weights (D, classes), offsets (classes,)."""
    optimizer = optax.chain(
        optax.add_decayed_weights(_DECAY), optax.sgd(_RATE, momentum=0.9, nesterov=True)
    )
    params = (jnp.zeros((x.shape[1], classes)), jnp.zeros(classes))

    def loss(params):
        logits = x @ params[0] + params[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda start: jax.lax.scan(step, start, length=_STEPS)[0][0])
    return train((params, optimizer.init(params)))
