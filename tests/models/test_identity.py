import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import skimage.data
from onnx_graphs import iresnet, mobilefacenet, patterns, reference, sface
from PIL import Image

from identitydp_jax import demo
from identitydp_jax.checks import UserError
from identitydp_jax.evaluation.verifiers import load_verifier
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.weights import cache


@pytest.mark.parametrize("build", [mobilefacenet, iresnet])
def test_an_onnx_file_of_a_known_layout_is_loaded_by_its_path(tmp_path, build):
    path = build(tmp_path / "mine.onnx")
    apply, params = load_encoder(path)
    faces = patterns(2)
    np.testing.assert_allclose(jax.jit(apply)(params, faces), reference(path, faces), atol=1e-5)

    def similarity(faces):
        a, b = apply(params, faces)
        return jnp.vdot(a, b)

    gradient = jax.jit(jax.grad(similarity))(jnp.asarray(faces))
    assert bool(jnp.isfinite(gradient).all()) and float(jnp.abs(gradient).max()) > 0


@pytest.mark.parametrize(("build", "dimension"), [(mobilefacenet, 512), (sface, 128)])
def test_an_encoder_knows_how_long_its_embeddings_are(tmp_path, build, dimension):
    apply, params = load_encoder(build(tmp_path / "mine.onnx"))
    embedding = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32))
    assert embedding.shape == (2, dimension) == (2, apply.dimension)


def test_an_unknown_name_is_one_clear_line():
    with pytest.raises(UserError, match=r"^mbf: neither a pretrained encoder \(w600k_mbf, sface\)"):
        load_encoder("mbf")


def test_another_network_is_one_clear_line(tmp_path):
    path = iresnet(tmp_path / "other.onnx")
    proto = onnx.load(path)
    del proto.graph.node[-3:]
    proto.graph.output[0].name = proto.graph.node[-1].output[0]
    onnx.save(proto, path)
    with pytest.raises(UserError, match=r"other\.onnx: not an identity encoder") as error:
        load_encoder(path)
    assert "\n" not in str(error.value)


def test_a_network_for_another_size_of_face_is_refused(tmp_path):
    path = iresnet(tmp_path / "other.onnx")
    proto = onnx.load(path)
    gemm = next(node for node in proto.graph.node if node.op_type == "Gemm")
    kernel = next(w for w in proto.graph.initializer if w.name == gemm.input[1])
    smaller = onnx.numpy_helper.to_array(kernel)[:, : 64 * 36]
    kernel.CopyFrom(onnx.numpy_helper.from_array(smaller, kernel.name))
    onnx.save(proto, path)
    with pytest.raises(UserError, match="other shapes"):
        load_encoder(path)


@pytest.mark.network
def test_the_shipped_encoder_equals_onnxruntime_on_a_real_face():
    face = cv2.resize(skimage.data.astronaut()[62:187, 160:285], (112, 112))
    darker, blurred = face // 2, cv2.GaussianBlur(face, (0, 0), 2)
    photos = np.stack([face, face[:, ::-1], darker, blurred])
    faces = photos.astype(np.float32) / 127.5 - 1
    apply, params = load_encoder("w600k_mbf")
    found = np.asarray(jax.jit(apply)(params, faces))
    np.testing.assert_allclose(found, reference(cache.path("w600k_mbf"), faces), atol=1e-4)
    assert (found @ found[0]).min() > 0.5  # one person


@pytest.mark.network
def test_sface_embeds_as_its_verifier_does_from_the_graph():
    folder = pathlib.Path(demo.__file__).parent / "demo_faces"
    photos = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))]
    faces = np.stack([np.asarray(photo.resize((256, 256))) for photo in photos])
    apply, params = load_encoder("sface")
    found = np.asarray(jax.jit(apply)(params, identity_crop(to_float(faces))))
    wanted = load_verifier("sface").embed(faces)
    assert found.shape == (len(faces), 128) and len(faces) >= 4
    assert (found * wanted).sum(1).min() > 0.9999
    assert (wanted @ wanted.T - np.eye(len(faces))).max() < 0.6  # which tells them apart
