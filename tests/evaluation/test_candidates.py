"""Keys of an evaluation are those of the face, not of its place."""

import benches
import jax
import numpy as np

from identitydp_jax.evaluation import candidates


def _bits(method, faces, seed, release):
    return jax.random.key_data(candidates.release_keys(method, faces, seed, release)).tolist()


def test_keys_depend_on_face_method_release_and_seed_alone():
    faces, blind, other = benches.face_set(3, 1).faces, benches.Blind(), benches.Scrambled()
    bits = _bits(blind, faces, 0, 0)
    assert _bits(blind, faces[[2, 0]], 0, 0) == [bits[2], bits[0]]
    others = _bits(other, faces, 0, 0) + _bits(blind, faces, 1, 0) + _bits(blind, faces, 0, 1)
    assert len({tuple(each) for each in bits + others}) == 12


def test_drawing_some_faces_is_drawing_all_and_choosing():
    faces = benches.face_set(3, 1).faces
    candidate = candidates.from_method(benches.Blind(), faces, seed=0)
    whole = candidate.draw(np.arange(3), 0)
    np.testing.assert_array_equal(candidate.draw(np.array([2]), 0), whole[[2]])
    assert (candidate.draw(np.arange(3), 1) != whole).any()
