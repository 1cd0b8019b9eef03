"""Generated faces to train on."""

import jax
import numpy as np

from identitydp_jax.data import synthetic
from identitydp_jax.models import cut_source, face_source
from identitydp_jax.weights.registry import WEIGHTS


def write_folder(
    directory, *, count: int, resolution: int, seed: int, image_format: str, twins: bool = False,
    cut: bool = False,
) -> int:  # fmt: skip
    """Write generated faces 0 to count - 1 of a seed into a folder, unless they are there.

    With `twins` every picture is two faces wide: a face and its twin of `face_source.draw_twins`.
    With `cut` they are those of `cut_source.twins`, at a tenth of the cost.
    Returns how many were written now. Raises `UserError` as `synthetic.write_faces` does.
    """
    params = jax.device_put(cut_source.load(resolution) if cut else face_source.load())
    root = jax.random.key(seed)

    def draw(index: int) -> np.ndarray:
        key = jax.random.fold_in(root, index)
        if cut:
            return np.asarray(cut_source.twins(params, key=key, side=resolution))
        generate = face_source.twins if twins else face_source.face
        return np.asarray(generate(params, key=key, resolution=resolution))

    return synthetic.write_faces(
        directory,
        count=count,
        draw=draw,
        recipe={
            "generator": WEIGHTS["mobilestylegan_synthesis_bin"].sha256,
            "seed": seed,
            "resolution": resolution,
            **({"twins": 1} if twins else {}),
            **({"cut": 1} if cut else {}),
        },
        image_format=image_format,
    )
