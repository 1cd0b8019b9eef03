"""Face verifiers: how far apart two faces are in the eyes of those who would recognise them."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.data.alignment import FRAME
from identitydp_jax.evaluation import face_analysis
from identitydp_jax.models import dlib_resnet, identity, inception_resnet_v1, onnx_graph
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import crop
from identitydp_jax.models.pixels import to_float
from identitydp_jax.sharding import map_rows
from identitydp_jax.weights import cache
from identitydp_jax.weights.registry import WEIGHTS

# SCRFD's mean box over unaltered CelebA photos in the model frame, with FaceNet's margin of 15 % of
# its sides, stretched to a square as in FaceNet's own preparation of photos. On pairs of these
# photos it verified better than square boxes (best accuracy .967 against .947 to .954 for the
# CASIA training) and than stretched ones of 7 and 26 % margin.
_FACENET_BOX = (48.0, 33.0, 209.0, 248.0)
_FACENET_SIDE = 160


class Verifier(Protocol):
    """Anything that tells whether two photos show one person, a cloud service for example.

    Attributes:
      name: of the verifier.
      threshold: published distance under which two photos count as the same person, or None.
    """

    name: str
    threshold: float | None

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Compare faces pair by pair.

        Args:
          a: uint8 sRGB (N, 256, 256, 3) in the model frame.
          b: as `a`.

        Returns:
          float (N,), larger for less alike; inf where the verifier finds no face to compare.
        """
        ...


@dataclasses.dataclass(frozen=True)
class EmbeddingVerifier:
    """A verifier whose distance is the Euclidean one between embeddings.

    Attributes:
      name: as `load_verifier` takes it.
      threshold: published distance under which two photos count as the same person, or None.
      weights: SHA-256 of each pretrained file that it uses, by the file's name.
      embed: maps faces uint8 (N, 256, 256, 3) in the model frame to float32 (N, D).
    """

    name: str
    threshold: float | None
    weights: Mapping[str, str]
    embed: Callable[[np.ndarray], np.ndarray]

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the distances float32 (N,) of faces a and b, see `Verifier.distance`."""
        return np.linalg.norm(self.embed(a) - self.embed(b), axis=1)


def load_verifier(name: str):
    """Load a verifier.

    | name | network | embedding |
    | --- | --- | --- |
    | facenet-casia, facenet-vggface2 | Schroff et al., CVPR 2015; the paper's own | unit 512 |
    | dlib | ResNet of dlib's face recognition | 128 |
    | edgeface | George et al., arXiv 2307.01838: EdgeFace-S | unit 512 |
    | sface | Zhong et al., arXiv 2205.12010; not for models that it is the encoder of | unit 128 |
    | arcface | the encoder of the shipped model, so no independent verifier | unit 512 |

    Args:
      name: one of these, or `package.module:attribute`, an importable `Verifier` of your own.

    Returns:
      An `EmbeddingVerifier`, or your own object.

    Raises:
      UserError: there is no such verifier, or its weights or dlib can't be had.
    """
    if name in _VERIFIERS:
        return _load(name)
    if ":" in name:
        return _imported(name)
    raise UserError(
        f"verifier is {name!r}: choose one of {', '.join(_VERIFIERS)},"
        " or name your own as package.module:attribute"
    )


@functools.cache
def _load(name: str) -> EmbeddingVerifier:
    """Load one of the verifiers here; kept, so that its program is compiled once."""
    load, threshold, files = _VERIFIERS[name]
    weights = {file: WEIGHTS[file].sha256 for file in files}
    return EmbeddingVerifier(name, threshold, weights, load(files[0]))


def _imported(name: str) -> Verifier:
    """Import a user's verifier and look whether it is one."""
    module, _, attribute = name.partition(":")
    try:
        verifier = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"verifier {name}: cannot be imported ({error}); its folder has to be on PYTHONPATH"
        ) from None
    missing = [each for each in ("name", "threshold", "distance") if not hasattr(verifier, each)]
    if missing or isinstance(verifier, type):
        what = "a class" if isinstance(verifier, type) else f"without {', '.join(missing)}"
        raise UserError(f"verifier {name} is {what}: give an object as Verifier describes it")
    return verifier


def _facenet(file: str):
    apply, params = inception_resnet_v1.load_facenet(file)

    def embed(params, faces):
        return apply(params, (_facenet_crop(faces) - 127.5) / 128.0)

    return _mapped(embed, params)


def _dlib(_):
    apply, params = dlib_resnet.load_dlib_resnet()
    face_analysis.chips(np.zeros((0, FRAME, FRAME, 3), np.uint8))  # so that what is missing is told

    def embed(params, chips):
        return apply(params, chips.astype(jnp.float32))

    return lambda faces: map_rows(embed, params, face_analysis.chips(faces))


def _edgeface(file: str):
    apply, params = onnx_graph.load(cache.path(file))
    return _mapped(
        lambda params, faces: _unit(apply(params, identity_crop(to_float(faces)))), params
    )


def _sface(file: str):
    apply, params = onnx_graph.load(cache.path(file))

    def embed(params, faces):
        return _unit(apply(params, identity_crop(faces.astype(jnp.float32))))

    return _mapped(embed, params)


def _arcface(file: str):
    apply, params = identity.load_encoder(file)
    return _mapped(lambda params, faces: apply(params, identity_crop(to_float(faces))), params)


def _mapped(embed, params) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from faces to embeddings, over all devices."""

    def mapped(faces):
        face_analysis.check(faces)
        return map_rows(embed, params, faces)

    return mapped


def _facenet_crop(faces: jax.Array) -> jax.Array:
    """Cut uint8 faces (N, 256, 256, 3) to FaceNet's float32 (N, 160, 160, 3), same range."""
    left, top, right, bottom = _FACENET_BOX
    return crop(
        faces.astype(jnp.float32), left=left, top=top, width=right - left, height=bottom - top,
        side=_FACENET_SIDE,
    )  # fmt: skip


def _unit(embeddings: jax.Array) -> jax.Array:
    return embeddings / jnp.linalg.norm(embeddings, axis=-1, keepdims=True)


# Loader, published threshold, weights (the first is the network's). FaceNet: a squared distance of
# 1.242 verified LFW best (its section 5.6). SFace: OpenCV's model zoo. ArcFace: a cosine of 0.28 in
# InsightFace's examples. EdgeFace's authors give none.
_VERIFIERS = {
    "facenet-casia": (_facenet, 1.114, ("facenet_casia",)),
    "facenet-vggface2": (_facenet, 1.114, ("facenet_vggface2",)),
    "dlib": (_dlib, 0.6, ("dlib_resnet", "dlib_points5")),
    "edgeface": (_edgeface, None, ("edgeface_s",)),
    "sface": (_sface, 1.128, ("sface",)),
    "arcface": (_arcface, 1.2, ("w600k_mbf",)),
}
