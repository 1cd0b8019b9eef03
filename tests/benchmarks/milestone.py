"""What a model that is being trained does to faces: figures, and a sheet to look at.

    python tests/benchmarks/milestone.py MODEL FACES_FOLDER SHEET.png [--count 64]

FACES_FOLDER: photos with one face each; the first are taken. Every face is drawn with its own
identity, with the next photo's, and with that of a face of nobody, as low epsilons ask for. Prints
per target the cosine of what is pasted with the identity asked for and with the original's, by the
model's encoder and by SFace, which is in no loss; landmark drift by the training's landmark net;
SSIM; fine detail in the region against the original's. The sheet has, from the top: originals, own
identity, the next photo's pasted and unpasted, nobody's pasted and unpasted.
"""

import argparse
import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity

from identitydp_jax.anonymize import faces as stages
from identitydp_jax.data import alignment
from identitydp_jax.data.detection import Detector
from identitydp_jax.models import cut_source, landmark_net
from identitydp_jax.models.face_region import blend, face_region
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop
from identitydp_jax.models.layers import coarsen, reduce
from identitydp_jax.models.pixels import to_float, to_uint8
from identitydp_jax.sharding import map_rows
from identitydp_jax.training import losses

_SHOWN = 16


def main():
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("sheet")
    parser.add_argument("--count", type=int, default=64)
    args = parser.parse_args()
    model = stages.load_model(args.model)
    side = model.resolution
    faces = aligned(args.folder, args.count, side)
    sface, sface_params = load_encoder("sface")
    embed = {
        "encoder": lambda x: stages.embed_faces(model, x),
        "sface": lambda x: map_rows(_embedding(sface), sface_params, x),
    }
    own = {name: f(faces) for name, f in embed.items()}
    nobody = nobodies(len(faces), side)
    asked = {
        "own": own,
        "next": {name: np.roll(x, -1, 0) for name, x in own.items()},
        "nobody": {name: f(nobody) for name, f in embed.items()},
    }
    region = face_region(side)
    points = found(faces)
    rows = [faces[:_SHOWN]]
    for name, target in asked.items():
        whole = small(stages.draw_faces(model, faces, target["encoder"]), side)
        share = region
        if whole.shape[-1] == 4:
            share = region * (whole[..., 3:] / np.float32(255))
            whole = whole[..., :3]
        drawn = np.asarray(to_uint8(blend(to_float(faces), to_float(whole), share)))
        figures = {}
        for net, f in embed.items():
            e = f(drawn)
            figures[f"asked {net}"] = (e * target[net]).sum(1).mean()
            figures[f"original {net}"] = (e * own[net]).sum(1).mean()
        figures["drift"] = float(losses.landmarks(found(drawn), points))
        pairs = list(zip(faces, drawn, strict=True))
        figures["ssim"] = np.mean([structural_similarity(a, b, channel_axis=2) for a, b in pairs])
        figures["detail"] = detail(drawn, region) / detail(faces, region)
        print(name, " ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
        rows.append(drawn[:_SHOWN])
        if name != "own":
            rows.append(whole[:_SHOWN])
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    Image.fromarray(sheet).save(args.sheet)


def small(drawn, side: int) -> np.ndarray:
    """Return drawn faces (N, S, S, C) as (N, side, side, C), by area."""
    return np.rint(reduce(jnp.asarray(drawn, jnp.float32), side)).astype(np.uint8)


def aligned(folder, count: int, side: int) -> np.ndarray:
    """Return the first faces of a folder in the model frame, uint8 (N, side, side, 3)."""
    detector, found_faces = Detector(), []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png")):
        photo = np.asarray(Image.open(path).convert("RGB"))
        detections = detector.detect(photo)
        if len(detections):
            areas = np.prod(detections.boxes[:, 2:] - detections.boxes[:, :2], axis=1)
            points = detections.points[int(areas.argmax())]
            matrix = alignment.similarity(points, side)
            found_faces.append(alignment.crop(photo, matrix, side))
        if len(found_faces) == count:
            break
    return np.stack(found_faces)


def nobodies(count: int, side: int) -> np.ndarray:
    """Return faces of nobody that no training saw, uint8 (count, side, side, 3)."""
    import jax

    params, root = cut_source.load(side), jax.random.key(2**31)
    pictures = [
        np.asarray(cut_source.twins(params, key=jax.random.fold_in(root, i), side=side))[:, :side]
        for i in range(count)
    ]
    return np.stack(pictures)


def found(faces):
    """Return the 68 points of uint8 faces."""
    return jnp.asarray(map_rows(_points, landmark_net.load(), faces))


def detail(faces, region) -> float:
    """Return the root mean square of fine detail inside the region."""
    x = to_float(faces)
    fine = np.asarray(x - coarsen(x, x.shape[1] // 4))
    return float(np.sqrt((fine**2 * region).mean() / region.mean()))


def _points(params, faces):
    return landmark_net.find(params, to_float(faces))


_EMBEDDINGS = {}


def _embedding(encode):
    if encode not in _EMBEDDINGS:
        _EMBEDDINGS[encode] = lambda params, faces: encode(params, identity_crop(to_float(faces)))
    return _EMBEDDINGS[encode]


if __name__ == "__main__":
    main()
