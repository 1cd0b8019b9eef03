"""Protocols that look into the mechanism, with a tiny model."""

import dataclasses

import benches
import numpy as np
import pytest
import tiny

from identitydp_jax.anonymize.faces import Model, embed_faces
from identitydp_jax.anonymize.methods import IdentityDP, fit
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import candidates
from identitydp_jax.evaluation.protocols import (
    attributes,
    averaging,
    identity,
    known_key,
    mechanisms,
    overhead,
    sweep,
)
from identitydp_jax.evaluation.store import Store
from identitydp_jax.privacy.setting import PrivacySetting

COLOURS = benches.COLOURS


@pytest.fixture(scope="module")
def model():
    params = {"network": tiny.variables(), "encoder": tiny.encoder_params()}
    return Model("tiny", tiny.CONFIG, params, tiny.encode, "0" * 64, "1" * 64)


def identitydp(model, epsilon=6.0):
    return IdentityDP(model, PrivacySetting(epsilon=epsilon))


def test_sweep_measures_the_cosine_that_the_formula_gives(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "EPSILONS", (6.0, 800.0, 10_000.0))
    bench = benches.bench(tmp_path, [identitydp(model)], faces=benches.face_set(6, 2), releases=2)
    report = sweep.run(bench)
    assert list(report.rows) == ["epsilon 6", "epsilon 800", "epsilon 10000"]
    for row in report.rows.values():
        assert row["cos(r, r~)"].value == pytest.approx(row["expected"].value, abs=0.04)
        assert row["cos(r, r~)"].count == 24
    assert report.rows["epsilon 800"]["cos(r, r~)"].value == pytest.approx(0.483, abs=0.03)
    assert all(len(pictures) == 6 for pictures in report.sheet.values())


def test_sweep_tells_what_was_asked_for_from_what_was_noised(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "EPSILONS", (6.0,))
    bench = benches.bench(tmp_path, [identitydp(model)], faces=benches.face_set(6, 2), releases=1)
    # With a population that moves nothing both are the same.
    (row,) = sweep.run(bench).rows.values()
    for one, other in (("cos(r, r~)", "cos(r, t)"), ("cos(r~, r(X^))", "cos(t, r(X^))")):
        assert row[one].value == pytest.approx(row[other].value, abs=1e-5)

    def own(model, faces, codes, *, setting, preserve):
        return embed_faces(model, fit(bench.faces.faces, 64))

    monkeypatch.setattr(sweep, "target_identities", own)
    bench = dataclasses.replace(bench, store=Store(tmp_path / "again"))
    (row,) = sweep.run(bench).rows.values()
    assert row["cos(r, t)"].value == pytest.approx(1, abs=1e-4)
    assert row["cos(t, r(X^))"].value == pytest.approx(row["cos(r, r(X^))"].value, abs=1e-4)
    assert abs(row["cos(r, r~)"].value) < 0.1


def _picture_is_identity(monkeypatch):
    """Let a face's embedding be its picture, and a face be drawn as what it is given."""
    monkeypatch.setattr(identity, "embed_faces", lambda model, faces: faces)
    monkeypatch.setattr(identity, "draw_faces", lambda model, faces, given: given)


def test_a_face_that_is_drawn_as_the_other_obeys(model, tmp_path, monkeypatch):
    _picture_is_identity(monkeypatch)
    bench = benches.bench(tmp_path, [identitydp(model)])
    report = identity.run(bench)
    row = report.rows["identity of another photo"]
    assert row[f"obeys {COLOURS}"].value > 0.95  # the seam shows in the corners of its fields
    unrelated = row[f"unrelated {COLOURS}"].value
    assert unrelated < 0.3
    assert row[f"of itself {COLOURS}"].value == pytest.approx(unrelated, abs=0.1)
    assert row[f"same person {COLOURS}"].value > 0.9
    assert row[f"same person {COLOURS}"].count == 8 * 6  # pairs of four photos
    assert all(len(pictures) == 8 for pictures in report.sheet.values())


def test_a_face_that_stays_as_it_is_does_not_obey(model, tmp_path, monkeypatch):
    _picture_is_identity(monkeypatch)
    monkeypatch.setattr(identity, "draw_faces", lambda model, faces, given: faces)
    row = identity.run(benches.bench(tmp_path, [identitydp(model)])).rows[
        "identity of another photo"
    ]
    assert row[f"of itself {COLOURS}"].value > 0.95
    assert row[f"obeys {COLOURS}"].value == pytest.approx(
        row[f"unrelated {COLOURS}"].value, abs=0.1
    )


def test_keys_give_different_people_where_there_is_noise(model, tmp_path):
    clear = IdentityDP(model, PrivacySetting("privunit", 1e4))
    hidden = identitydp(model)
    rows = identity.run(benches.bench(tmp_path, [hidden, benches.Blind(), clear])).rows
    assert list(rows) == ["identity of another photo", hidden.name, clear.name]
    two_keys = [rows[m.name][f"two keys {COLOURS}"].value for m in (hidden, clear)]
    assert two_keys[0] < two_keys[1] and two_keys[1] > 0.99


@pytest.mark.parametrize("counts", [[4, 4, 4], [9, 1, 2], [1, 1], [7, 3, 1, 1]])
def test_donors_are_other_people(counts):
    names = np.repeat([f"p{i}" for i in range(len(counts))], counts)
    donors = identity._donors(names)
    assert donors.shape == names.shape and (names[donors] != names).all()


def test_one_person_has_no_donor(model, tmp_path):
    alone = benches.face_set(people=1)
    with pytest.raises(UserError, match="all photos show one person; give photos of several"):
        identity.run(benches.bench(tmp_path, [identitydp(model)], faces=alone))


def test_known_key_gives_everything_away_at_any_epsilon(model, tmp_path):
    methods = [identitydp(model, 0.5), identitydp(model, 6.0)]
    rows = known_key.run(benches.bench(tmp_path, methods)).rows
    for name in ("identitydp:0.5", "identitydp:6"):
        taken = rows[f"{name}, noise taken away"]
        assert taken["recovered"].value > 0.999 and taken["rank-1"].value > 0.9
        assert rows[f"{name}, candidates drawn"]["rank-1"].value == 1


def test_known_key_of_another_release_takes_nothing_away(model, tmp_path, monkeypatch):
    bench, keys = benches.bench(tmp_path, [identitydp(model)]), candidates.release_keys
    numbers = iter(range(10))
    monkeypatch.setattr(
        candidates, "release_keys", lambda m, f, seed, _: keys(m, f, seed, next(numbers))
    )
    faces = benches.face_set().faces[:16, ::4, ::4]
    truth, found = known_key._take_noise_away(bench, identitydp(model), faces)
    assert abs((truth * found).sum(axis=1)).max() < 0.2


def test_mechanisms_rank_as_their_cosines_do(model, tmp_path, monkeypatch):
    monkeypatch.setattr(mechanisms, "EPSILONS", (6.0, 3000.0))
    bench = benches.bench(tmp_path, [identitydp(model)])
    rows = mechanisms.run(bench).rows
    for name in ("laplace", "privunit", "gaussian"):
        for epsilon in (6, 3000):
            row = rows[f"{name}, epsilon {epsilon}"]
            assert row["cosine"].value == pytest.approx(row["expected cosine"].value, abs=0.05)
        assert rows[f"{name}, epsilon 3000"]["rank-1"].value == 1
    assert rows["laplace, epsilon 6"]["rank-1"].value < 0.5
    assert abs(rows["random, epsilon 0"]["cosine"].value) < 0.05


def test_averaging_codes_recovers_what_one_code_hides(model, tmp_path, monkeypatch):
    monkeypatch.setattr(averaging, "_CODES", 4096)
    bench = benches.bench(tmp_path, [identitydp(model, 60.0)], releases=1)
    rows = averaging.run(bench).rows
    few, many = (rows[f"identitydp:60: noised embedding, k={k}"]["rank-1"].value for k in (1, 4096))
    assert few < 0.8 and many == 1


def test_a_learned_metric_sees_past_what_varies_within_a_person():
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(40), 5).astype(str)
    person = np.repeat(rng.normal(size=(40, 4)), 5, axis=0)
    vectors = np.concatenate([person, 5 * rng.normal(size=(200, 6))], axis=1)
    metric = attributes.learn_metric(vectors[:100], names[:100])

    def rank(embeddings):
        found = attributes.people.recognition(
            embeddings[100::5], embeddings[101::5], names[100::5], names[101::5]
        )
        return found["rank-1"].value

    assert rank(vectors) < 0.2 and rank(metric(vectors)) > 0.6


def test_attributes_identify_people_by_their_pictures(model, tmp_path):
    report = attributes.run(benches.bench(tmp_path, [identitydp(model)], faces=benches.face_set(8)))
    assert report.rows["attribute maps"]["rank-1"].value == 1  # the pictures differ by noise alone
    assert report.rows["chance"]["rank-1"].value == pytest.approx(1 / 4)
    assert report.rows["chance, same photo"]["rank-1"].value == pytest.approx(1 / 8)


def test_what_is_preserved_is_attacked_too(model, tmp_path):
    network = {**model.params["network"], "declared": tiny.declared_attributes()}
    able = dataclasses.replace(model, params={**model.params, "network": network})
    method = dataclasses.replace(identitydp(able), preserve=("glasses",))
    report = attributes.run(benches.bench(tmp_path, [method], faces=benches.face_set(8)))
    row = report.rows["declared attributes"]["rank-1"]
    assert 0 <= row.value < 1 and row.count == 8  # a single answer names nobody of four
    bare = [name for name in report.rows if name.startswith("random identity, nothing preserved")]
    assert bare
    nothing = dataclasses.replace(method, preserve=())
    report = attributes.run(benches.bench(tmp_path / "not", [nothing], faces=benches.face_set(8)))
    assert not any("preserved" in name or "declared" in name for name in report.rows)


@pytest.mark.parametrize("protocol", [sweep, attributes, identity, known_key, mechanisms])
def test_protocols_of_the_mechanism_need_it(protocol, tmp_path):
    with pytest.raises(UserError, match="--method identitydp is needed"):
        protocol.run(benches.bench(tmp_path, [benches.Blind()]))


@pytest.mark.network
def test_overhead_times_every_stage(model, tmp_path):
    faces = benches.face_set(2, 1)

    class Photos(benches.Source):
        def __iter__(self):
            pixels = dict(zip(faces.names, faces.faces, strict=True))
            return iter([benches.Photo(name, None, lambda p=p: p) for name, p in pixels.items()])

    bench = benches.bench(tmp_path, [identitydp(model)], faces=faces, source=Photos())
    rows = overhead.run(bench).rows
    stages = ["detect", "align", "paste"]
    stages += [f"identitydp:6: {s}" for s in ("embed", "embed and release", "the whole network")]
    assert list(rows) == [*stages, "identitydp:6"]
    assert all(figure.value > 0 for row in rows.values() for figure in row.values())
