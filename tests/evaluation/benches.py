"""Faces of made-up people, and a verifier that tells them by their colours."""

import hashlib
import typing

import numpy as np
import tiny

from identitydp_jax.evaluation.aligned import FaceSet
from identitydp_jax.evaluation.bench import Bench
from identitydp_jax.evaluation.sources import Photo  # noqa: F401
from identitydp_jax.evaluation.store import Store


class Colours:
    """Embeds a face as the mean colours of 4 x 4 fields in its middle, as a unit vector."""

    name = "colours"
    threshold = 0.2
    weights: typing.ClassVar = {}

    def embed(self, faces):
        fields = (
            faces[:, 64:192, 64:192].reshape(-1, 4, 32, 4, 32, 3).mean((2, 4)).reshape(-1, 48)
            - 128.0
        )
        return (fields / np.linalg.norm(fields, axis=1, keepdims=True)).astype(np.float32)

    def distance(self, faces, others):
        return np.linalg.norm(self.embed(faces) - self.embed(others), axis=1)


class Cloud:
    """Tells distances and shows no embedding, as a cloud service does."""

    name = "cloud"
    threshold = 0.2

    def distance(self, faces, others):
        return Colours().distance(faces, others)


colours, cloud = Colours(), Cloud()
COLOURS = "benches:colours"


def face_set(people: int = 8, photos: int = 4) -> FaceSet:
    """Photos of people that differ by a little noise from one picture per person."""
    rng = np.random.default_rng(0)
    each = np.repeat(tiny.faces(people, 256), photos, axis=0).astype(np.int16)
    noisy = np.clip(each + rng.integers(-12, 13, (len(each), 1, 1, 3)), 0, 255).astype(np.uint8)
    names = tuple(f"p{i}/{j}.png" for i in range(people) for j in range(photos))
    count = len(names)
    return FaceSet(
        names=names,
        identities=np.array([name.partition("/")[0] for name in names]),
        known=np.ones(count, bool),
        faces=noisy,
        matrices=np.tile(np.eye(2, 3), (count, 1, 1)),
        sizes=np.full((count, 2), 256),
        contents=tuple(hashlib.sha256(face.tobytes()).digest() for face in noisy),
        unreadable=(),
        not_found=(),
        duplicates=(),
    )


class Source:
    spec = "nowhere"


def bench(folder, methods=(), pictures=None, verifiers=(COLOURS,), **options) -> Bench:
    fields = {"releases": None, "seed": 0} | options
    return Bench(
        source=fields.pop("source", None) or Source(),
        faces=fields.pop("faces", None) or face_set(),
        methods=tuple(methods),
        pictures=pictures or {},
        store=Store(folder / "measured"),
        verifiers=tuple(verifiers),
        **fields,
    )


class Scrambled:
    """A way to anonymize that always turns the picture's colours in the same way."""

    name, resolution, policy, recipe = "scrambled", 256, "scrambled", "scrambled"

    def draw(self, faces, *, keys):
        return (255 - faces)[..., ::-1].copy()


class Blind:
    """Pictures that the key alone decides."""

    name, resolution, policy, recipe = "blind", 256, "blind", "blind"

    def draw(self, faces, *, keys):
        import jax

        seeds = np.asarray(jax.random.key_data(keys))
        return np.concatenate([tiny.faces(1, 256, seed=seed.tolist()) for seed in seeds])


class Untouched:
    """No anonymization at all."""

    name, resolution, policy, recipe = "untouched", 256, "untouched", "untouched"

    def draw(self, faces, *, keys):
        return faces
