import pathlib
import sys
import types

import cv2
import jax
import numpy as np
import pytest

import identitydp_jax
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation import verifiers
from identitydp_jax.evaluation.verifiers import EmbeddingVerifier, load_verifier
from identitydp_jax.weights.registry import WEIGHTS

NAMES = ["facenet-casia", "dlib", "edgeface", "sface", "arcface"]


@pytest.fixture(scope="module")
def faces():
    folder = pathlib.Path(identitydp_jax.__file__).parent / "demo_faces"
    pictures = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("*.jpg"))[:3]]
    return np.stack([cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA) for p in pictures])


def _another_photo(faces):
    """The same people, mirrored, darker and less sharp."""
    darker = faces[:, :, ::-1].astype(np.float32) * 0.8 + 10
    return np.stack([cv2.GaussianBlur(face, (0, 0), 1.2) for face in darker]).astype(np.uint8)


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_people_are_told_apart_by_the_published_threshold(name, faces):
    verifier = load_verifier(name)
    photos = np.concatenate([_another_photo(faces), faces[1:]])
    distances = verifier.distance(np.concatenate([faces, faces[:2]]), photos)
    same, different = distances[:3], distances[3:]
    threshold = 1.1 if verifier.threshold is None else verifier.threshold
    assert same.max() < threshold < different.min()
    assert verifier.name == name
    for file, digest in verifier.weights.items():
        assert digest == WEIGHTS[file].sha256


@pytest.mark.network
@pytest.mark.parametrize("name", ["edgeface", "sface", "dlib"])
def test_embeddings_depend_on_their_own_face_alone(name, faces):
    embed = load_verifier(name).embed
    whole = embed(faces)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(embed(faces[2:])[0], whole[2])
    assert embed(faces[:0]).shape == (0, whole.shape[1])
    if name != "dlib":
        np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


@pytest.mark.network
@pytest.mark.parametrize("name", ["edgeface", "dlib"])
def test_other_arrays_are_refused(name, faces):
    with pytest.raises(UserError, match=r"give uint8 \(N, 256, 256, 3\)"):
        load_verifier(name).embed(faces[:, ::2, ::2])


def test_distance_is_that_of_the_embeddings():
    verifier = EmbeddingVerifier("mean", 1.0, {}, lambda faces: faces.mean(axis=(1, 2)))
    a, b = np.zeros((2, 4, 4, 3)), np.ones((2, 4, 4, 3)) * [3.0, 0.0, 4.0]
    np.testing.assert_allclose(verifier.distance(a, b), [5.0, 5.0])


def test_facenet_sees_the_box_with_its_margin():
    along = np.arange(256, dtype=np.uint8)
    x, y = np.meshgrid(along, along)
    ramp = np.stack([x, y, np.zeros_like(x)], -1)[None]
    crop = jax.jit(verifiers._facenet_crop)(ramp)
    assert crop.shape == (1, 160, 160, 3)
    # A pixel's value is where its left edge lies.
    centres = (np.arange(160) + 0.5) / 160
    np.testing.assert_allclose(crop[0, 80, :, 0], 48 + 161 * centres - 0.5, atol=0.1)
    np.testing.assert_allclose(crop[0, :, 80, 1], 33 + 215 * centres - 0.5, atol=0.1)


def test_a_verifier_of_ones_own(monkeypatch):
    service = types.SimpleNamespace(
        name="service", threshold=0.5, distance=lambda a, b: np.ones(len(a))
    )
    module = types.ModuleType("company_faces")
    module.service = service
    module.broken = types.SimpleNamespace(name="broken", threshold=0.5)
    module.Service = type("Service", (), {"name": "", "threshold": 0, "distance": None})
    monkeypatch.setitem(sys.modules, "company_faces", module)
    assert load_verifier("company_faces:service") is service
    with pytest.raises(UserError, match="company_faces:broken is without distance"):
        load_verifier("company_faces:broken")
    with pytest.raises(UserError, match="company_faces:Service is a class: give an object"):
        load_verifier("company_faces:Service")
    with pytest.raises(UserError, match=r"company_faces:nothing: cannot be imported \(.*nothing"):
        load_verifier("company_faces:nothing")


@pytest.mark.parametrize("name", ["no_such_module:verifier", ":verifier", "numpy:", "a b:c"])
def test_what_cannot_be_imported(name):
    with pytest.raises(UserError, match="cannot be imported"):
        load_verifier(name)


def test_an_unknown_name_is_answered_with_the_choices():
    with pytest.raises(UserError, match=r"'vgg': choose one of facenet-casia, .*module:attribute"):
        load_verifier("vgg")
