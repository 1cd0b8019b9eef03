"""Averaging attack: many releases of one photo under fresh keys, taken together."""

import functools

import jax
import numpy as np

from identitydp_jax.anonymize.faces import embed_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.evaluation import candidates, people
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.report import Curve, Report
from identitydp_jax.privacy.mechanism import decode, release

VERIFIERS = ("edgeface",)
_LEAST = 2  # photos of a person: one released, one known
_RELEASES = 32
_CODES = 4096  # releases of the noised embedding alone, which cost no picture

_NOTES = (
    "{who} One photo of each is released k times under fresh keys, another, untouched, is in the"
    " attacker's gallery. He averages the embeddings of the releases and takes the"
    " nearest person of the gallery.",
    "`noised embedding`: the attacker sees r~ itself instead of pictures. More of that is lost than"
    " a picture shows; it is what remembering one draw per person prevents.",
    "TAR: true accept rate at a false accept rate of 1e-3.",
)


def run(bench: Bench) -> Report:
    """Recognise people from the mean of 1, 2, 4, ... releases, for every candidate."""
    verifier = bench.load_verifiers(VERIFIERS)[0]
    index = people.with_photos(bench.people, _LEAST)
    shown, known = _one_each(bench.people, index)
    names = bench.people[shown]
    gallery = bench.measure(bench.original, [verifier], index=known)[verifier.name]
    releases = bench.releases or _RELEASES
    rows, lines = {}, {}
    for candidate in bench.candidates():
        total = 0.0
        for number in range(releases):
            measured = bench.measure(candidate, [verifier], release=number, index=shown)
            total = total + measured[verifier.name]
            _note(rows, lines, candidate.name, number + 1, total, gallery, names)
    for method in bench.methods:
        if isinstance(method, IdentityDP):
            _codes(bench, method, shown, known, rows, lines)
    chance = people.chance(names, names)
    rows["chance"] = chance
    levels = {"chance": chance["rank-1"].value}
    curve = Curve(("rank-1",), "releases k", lines, levels)
    notes = [note.format(who=people.describe(bench.people, index, _LEAST)) for note in _NOTES]
    return Report("averaging", "Averaging attack", rows, notes, curves=[curve])


def _one_each(identities, index):
    """Return the places of each person's first and second photo."""
    first, second = people.split_photos(identities, index)
    places = [np.unique(identities[part], return_index=True)[1] for part in (first, second)]
    return first[places[0]], second[places[1]]


def _note(rows, lines, name, count, total, gallery, names):
    """Add a row for every power of two."""
    if count & (count - 1) == 0:
        row = f"{name}, k={count}"
        probes = people.unit(np.asarray(total, np.float64))
        rows[row] = people.recognition(probes, people.unit(gallery), names, names)
        lines.setdefault(name, []).append((count, row))


def _codes(bench: Bench, method: IdentityDP, shown, known, rows, lines):
    """Average noised embeddings; the gallery is the encoder's own view of the other photos."""
    faces = fit(bench.faces.faces[shown], method.resolution)
    others = fit(bench.faces.faces[known], method.resolution)
    r, gallery = embed_faces(method.model, faces), embed_faces(method.model, others)
    keys = candidates.release_keys(method, faces, bench.seed, 0)
    mechanism, arrays = method.setting.mechanism, method.setting.arrays
    total, count, name = np.zeros_like(r), 1, f"{method.name}: noised embedding"
    while count <= _CODES:
        total = _add_codes(mechanism, r, keys, arrays, total, count // 2, count)
        _note(rows, lines, name, count, total, gallery, bench.people[shown])
        count *= 2


@functools.partial(jax.jit, static_argnums=0)
def _add_codes(mechanism, r, keys, arrays, total, start, stop):
    """Add the noised embeddings of releases `start` to `stop` of embeddings r (N, D)."""

    def add(number, total):
        each = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        return total + decode(release(r, key=each, mechanism=mechanism, arrays=arrays))

    return jax.lax.fori_loop(start, stop, add, total)
