"""How well a model hides who is in real photos, and what it keeps: the figures of its card.

    python tests/benchmarks/anonymization.py PHOTOS --dlib-models FOLDER [--epsilon E] [--limit N]

Per photo, the face that the detector is surest of is aligned, anonymized and put back. Reported:
how often dlib's verifier (never trained on) takes the result for someone else than the original
(distance above 0.6), how often the detector finds the face again, SSIM between the crops before
and after (from the photo, so pasting is part of it), and the identity encoder's cosines.
`--sface FILE`, OpenCV's face_recognition_sface_2021dec.onnx, adds a second verifier (someone else:
cosine under 0.363) and how often the result's nearest original is the right one (rank-1).
FOLDER holds dlib's `dlib_face_recognition_resnet_model_v1.dat` and
`shape_predictor_5_face_landmarks.dat`; needs `pip install dlib-bin`.
"""

import argparse
import json
import pathlib

import cv2
import dlib
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from identitydp_jax.anonymize.compositing import paste
from identitydp_jax.anonymize.faces import anonymize_faces, embed_faces, load_model
from identitydp_jax.data.alignment import crop, similarity
from identitydp_jax.data.detection import Detector
from identitydp_jax.privacy import PrivacySetting
from identitydp_jax.privacy.keys import audit_master, image_key

_SAME_PERSON = 0.6
_SFACE_SAME_PERSON = 0.363
_BATCH = 32


def main():
    """Measure, print JSON, and write a sheet of the first photos if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=pathlib.Path)
    parser.add_argument("--dlib-models", type=pathlib.Path, required=True)
    parser.add_argument("--sface", type=pathlib.Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--epsilon", type=float, default=6.0)
    parser.add_argument("--limit", type=int, help="take every k-th photo so that N remain")
    parser.add_argument("--sheet", type=pathlib.Path, help="write original and result pairs here")
    args = parser.parse_args()

    model, detector = load_model(args.model), Detector()
    setting = PrivacySetting(epsilon=args.epsilon)
    paths = sorted(args.photos.glob("*.jpg"))
    photos, found = _detect(paths[:: max(1, len(paths) // (args.limit or len(paths)))], detector)
    side = model.resolution
    matrices = np.stack([similarity(face.points[0], side) for face in found])
    crops = np.stack([crop(p, m, side) for p, m in zip(photos, matrices, strict=True)])
    drawn = _anonymize(model, crops, setting)
    results = [p.copy() for p in photos]
    for result, face, matrix in zip(results, drawn, matrices, strict=True):
        paste(result, face[None], matrix[None])
    after = np.stack([crop(p, m, side) for p, m in zip(results, matrices, strict=True)])

    describe = _Dlib(args.dlib_models)
    distances = np.array(
        [
            np.linalg.norm(describe(p, f.boxes[0]) - describe(r, f.boxes[0]))
            for p, r, f in zip(photos, results, found, strict=True)
        ]
    )
    again = [_found_again(detector, r, f) for r, f in zip(results, found, strict=True)]
    before, changed, put = (embed_faces(model, x) for x in (crops, drawn, after))
    figures = {
        "photos": len(paths),
        "faces": len(crops),
        "epsilon": args.epsilon,
        "dlib_someone_else": (distances > _SAME_PERSON).mean(),
        "dlib_distance_mean": distances.mean(),
        "detected_again": np.mean(again),
        "ssim_drawn": np.mean([_ssim(a, b) for a, b in zip(crops, drawn, strict=True)]),
        "ssim_pasted": np.mean([_ssim(a, b) for a, b in zip(crops, after, strict=True)]),
        "cosine_to_original_drawn": (before * changed).sum(1).mean(),
        "cosine_to_original_pasted": (before * put).sum(1).mean(),
    }
    if args.sface:
        figures |= _sface_figures(args.sface, photos, results, found)
    figures = {name: round(float(value), 4) for name, value in figures.items()}
    print(json.dumps({**figures, "model_sha256": model.sha256}, indent=1))
    if args.sheet:
        _write_sheet(args.sheet, photos, results)


def _detect(paths, detector):
    """Return the photos in which there is a face, and the surest face of each."""
    photos, found = [], []
    for path in paths:
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        faces = detector.detect(photo)
        if len(faces):
            photos.append(photo)
            found.append(faces[:1])
    return photos, found


def _anonymize(model, crops, setting):
    policy = setting.policy(model.sha256)
    keys = jnp.stack(
        [
            image_key(audit_master(0), digest=i.to_bytes(32, "big"), policy=policy)
            for i in range(len(crops))
        ]
    )
    return np.concatenate(
        [
            anonymize_faces(
                model, crops[i : i + _BATCH], keys=keys[i : i + _BATCH], setting=setting
            )
            for i in range(0, len(crops), _BATCH)
        ]
    )


def _found_again(detector, photo, before) -> bool:
    """Whether a face is found whose centre lies inside the original's box."""
    after = detector.detect(photo)
    left, top, right, bottom = before.boxes[0]
    x, y = (after.boxes[:, 0] + after.boxes[:, 2]) / 2, (after.boxes[:, 1] + after.boxes[:, 3]) / 2
    return bool(((left < x) & (x < right) & (top < y) & (y < bottom)).any())


def _ssim(a, b):
    """SSIM with the original paper's Gaussian window and constants."""
    return structural_similarity(
        a,
        b,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )


class _Dlib:
    """dlib's 128-d descriptor of the face in a box."""

    def __init__(self, folder):
        self._points = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self._net = dlib.face_recognition_model_v1(
            str(folder / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def __call__(self, photo, box):
        shape = self._points(photo, dlib.rectangle(*(int(v) for v in box)))
        return np.array(self._net.compute_face_descriptor(photo, shape))


def _sface_figures(path, photos, results, found):
    """How SFace, which no loss and no choice has seen, judges the same pairs."""
    net = cv2.FaceRecognizerSF.create(str(path), "")

    def describe(photo, face):
        frame = crop(photo, similarity(face.points[0], 256), 256)
        inner = cv2.resize(frame[30:222, 33:226], (112, 112), interpolation=cv2.INTER_AREA)
        vector = net.feature(np.ascontiguousarray(inner[..., ::-1]))[0]
        return vector / np.linalg.norm(vector)

    before, after = (
        np.stack([describe(p, f) for p, f in zip(images, found, strict=True)])
        for images in (photos, results)
    )
    nearest = (after @ before.T).argmax(1)
    return {
        "sface_someone_else": ((before * after).sum(1) < _SFACE_SAME_PERSON).mean(),
        "sface_rank1": (nearest == np.arange(len(nearest))).mean(),
    }


def _write_sheet(path, photos, results, count=10, height=256):
    pairs = [
        [cv2.resize(x, (round(x.shape[1] * height / x.shape[0]), height)) for x in pair]
        for pair in list(zip(photos, results, strict=True))[:count]
    ]
    width = max(a.shape[1] for a, _ in pairs)
    cells = [
        np.concatenate(
            [cv2.copyMakeBorder(x, 0, 0, 0, width - x.shape[1], cv2.BORDER_CONSTANT) for x in pair]
        )
        for pair in pairs
    ]
    cv2.imwrite(str(path), np.concatenate(cells, axis=1)[..., ::-1])


if __name__ == "__main__":
    main()
