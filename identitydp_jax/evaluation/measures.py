"""What is measured on a face and its anonymization, each measure by its name.

Measures give one row per face. What is made of the rows, a mean, a rate or a distance between two
distributions, is the matter of a protocol.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.data.alignment import FRAME
from identitydp_jax.evaluation import (
    celeba_heads,
    face_analysis,
    image_quality,
    skin,
    verifiers,
)
from identitydp_jax.models import face_geometry, face_mesh, inception_v3, iris, lpips
from identitydp_jax.models.face_region import face_region
from identitydp_jax.models.pixels import to_float
from identitydp_jax.sharding import map_rows
from identitydp_jax.weights.registry import WEIGHTS


@dataclasses.dataclass(frozen=True)
class Measure:
    """One measure, ready to run.

    Attributes:
      name: as it is asked for.
      weights: SHA-256 of each pretrained file that it uses, by the file's name.
      rows: from faces and their anonymizations, both uint8 (N, 256, 256, 3) in the model frame, to
        an array (N, ...).
    """

    name: str
    weights: dict[str, str]
    rows: Callable[[np.ndarray, np.ndarray], np.ndarray]


def load(names) -> tuple[list[Measure], dict[str, str]]:
    """Load measures by name; return those that can be had, and why the others can't.

    Names are `psnr`, `ssim`, `detail` and `rim` (of `image_quality`, in the face region), `lpips`,
    `inception` (the features of FID), `hog` and `scrfd` (whether the detector finds the face),
    `points68` (dlib's landmarks), `attributes` (scores of `celeba_heads`), `skin` (its tone),
    `pose` (of MediaPipe's mesh), `eyes` ((N, 2, 3): opening, yaw and pitch of each one's gaze), and
    those of `load_verifier`.
    """
    measures, missing = [], {}
    for name in names:
        try:
            measures.append(_load(name))
        except UserError as error:
            missing[name] = str(error)
    return measures, missing


def _load(name: str) -> Measure:
    if name in _LOADERS:
        rows, weights = _LOADERS[name]()
        rows(_NOBODY, _NOBODY)  # what is missing is told here
        return Measure(name, weights, rows)
    verifier = verifiers.load_verifier(name)
    if not hasattr(verifier, "embed"):
        return Measure(name, {}, verifier.distance)
    return Measure(name, dict(verifier.weights), lambda _, others: verifier.embed(others))


_NOBODY = np.zeros((0, FRAME, FRAME, 3), np.uint8)


def _pinned(*files: str) -> dict[str, str]:
    return {file: WEIGHTS[file].sha256 for file in files}


def _lpips():
    apply, params = lpips.load_lpips()

    def distance(params, faces, others):
        return apply(params, to_float(faces), to_float(others))

    return _mapped(distance, params), _pinned("lpips_vgg16")


def _inception():
    features, params = inception_v3.load_inception()
    rows = _mapped(lambda params, _, others: features(params, others), params)
    return rows, _pinned("inception_fid")


def _attributes():
    heads = celeba_heads.load()
    return lambda _, others: heads.scores(others), heads.weights


def _skin():
    params = face_mesh.load()
    find = _mapped(lambda params, _, others: face_mesh.find(params, to_float(others)), params)
    return lambda _, others: skin.tone(others, find(_, others)), _pinned("face_mesh")


def _pose():
    def angles(params, _, others):
        return face_geometry.pose(face_mesh.find(params, to_float(others)))

    return _mapped(angles, face_mesh.load()), _pinned("face_mesh")


def _eyes():
    mesh_params, iris_params = face_mesh.load(), iris.load()

    def looks(params, _, others):
        x = to_float(others)
        eyes = iris.find(params[1], x, face_mesh.find(params[0], x))
        opening = face_geometry.eye_opening(eyes.lids)
        return jnp.concatenate([opening[..., None], face_geometry.gaze(*eyes)], axis=2)

    return _mapped(looks, (mesh_params, iris_params)), _pinned("face_mesh", "iris")


def _psnr(_, faces, others):
    return image_quality.psnr(faces, others)


def _ssim(_, faces, others):
    return image_quality.ssim(faces, others)


def _detail(_, faces, others):
    return image_quality.detail_ratio(faces, others, face_region(FRAME))


def _rim(_, faces, others):
    return image_quality.rim_jump(faces, others, face_region(FRAME))


def _mapped(function, params=()):
    """Return a function from faces and others to rows, over all devices."""
    return lambda faces, others: map_rows(function, params, faces, others)


_LOADERS = {
    "psnr": lambda: (_mapped(_psnr), {}),
    "ssim": lambda: (_mapped(_ssim), {}),
    "detail": lambda: (_mapped(_detail), {}),
    "rim": lambda: (_mapped(_rim), {}),
    "lpips": _lpips,
    "inception": _inception,
    "attributes": _attributes,
    "eyes": _eyes,
    "pose": _pose,
    "skin": _skin,
    "hog": lambda: (lambda _, others: face_analysis.hog_found(others), {}),
    "scrfd": lambda: (lambda _, others: face_analysis.scrfd_found(others), _pinned("scrfd_500m")),
    "points68": lambda: (
        lambda _, others: face_analysis.points68(others),
        _pinned("dlib_points68"),
    ),
}
