"""Heads for declared attributes, fitted to labelled faces of nobody.

`models/shipped/declared/labels.json` says of generated faces, by number, who shows what. Glasses,
beard and skin were looked at, and so was who is a child or a senior where it is in doubt; the rest
of the ages, and who looks male, is from face-api's age and gender network (MIT licence). Faces that
leave doubt have no label. Statistics are of all the numbered faces.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from tqdm import tqdm

from identitydp_jax.checks import UserError
from identitydp_jax.models import declared, face_source
from identitydp_jax.models.identity import load_encoder
from identitydp_jax.models.identity_crop import identity_crop

NUMBERS = range(0, 10_000, 2)
_RESOLUTION = 128
_RIDGE = 1.5  # by validation on held-out labels; from .15 to 1.5 it hardly matters


def write(encoder: str, path, *, numbers=NUMBERS) -> None:
    """Fit heads for an encoder, measure the statistics, and write them for `declared.load`.

    Args:
      encoder: name or path, as `load_encoder` takes it.
      path: the file, safetensors in half precision.
      numbers: of the faces; each is drawn, which takes a tenth of a second.

    Raises:
      UserError: the pretrained files can't be had, or the file can't be written.
    """
    maps, embeddings = _describe(encoder, numbers)
    place = {number: index for index, number in enumerate(numbers)}
    labels = json.loads((declared.FOLDER / "labels.json").read_text())
    known = {
        answer: [[place[number] for number in row if number in place] for row in labels[answer]]
        for answer in ("yes", "no")
    }
    heads = fit(maps, known["yes"], known["no"])
    answers = declared.find(heads, jnp.asarray(maps))
    chosen = choose_gallery(np.asarray(answers))
    gallery = {"gallery": embeddings[chosen], "gallery_answers": answers[chosen]}
    tree = {**heads, **declared.measure(jnp.asarray(embeddings), answers), **gallery}
    tensors = {name: np.asarray(value, np.float16) for name, value in tree.items()}
    try:
        pathlib.Path(path).write_bytes(safetensors.numpy.save(tensors))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def fit(maps, yes, no) -> dict:
    """Return the `kernel` and `bias` of linear heads by ridge regression on +1 and -1.

    Both answers to a question weigh as much, however many faces gave them.

    Args:
      maps: (N, H, W, C), of `Encoder.middle`.
      yes: for each question the places of faces in `maps` of which the answer is yes.
      no: the same for no.

    Returns:
      float32 (H W C, A) and (A,), for `declared.find`.
    """
    x = np.asarray(maps, np.float32).reshape(len(maps), -1)
    mean = x.mean(0)
    centred = x - mean
    scale = (centred**2).sum(1, dtype=np.float64).mean()
    columns, bias = [], []
    for positive, negative in zip(yes, no, strict=True):
        place = np.array([*positive, *negative])
        target = np.repeat([1.0, -1.0], [len(positive), len(negative)])
        share = np.repeat([1 / len(positive), 1 / len(negative)], [len(positive), len(negative)])
        rows = centred[place]
        gram = (rows @ rows.T).astype(np.float64) / scale + 1.0  # 1 for the constant
        weight = share * len(place) / 2
        dual = np.linalg.solve(gram + np.diag(_RIDGE / weight), target)
        columns.append(rows.T @ dual.astype(np.float32) / scale)
        bias.append(dual.sum() - mean @ columns[-1])
    return {"kernel": np.float32(np.stack(columns, 1)), "bias": np.float32(bias)}


def choose_gallery(answers: np.ndarray) -> np.ndarray:
    """Return the places of `declared.GALLERY_SIZE` faces, those of rare answers first.

    Faces are taken in turn from all combinations of answers (N, A), so that those of a rare one
    have a choice, too.
    """
    _, combination = np.unique(answers, axis=0, return_inverse=True)
    turn = np.zeros(len(answers), int)
    for value in range(combination.max() + 1):
        places = np.flatnonzero(combination == value)
        turn[places] = np.arange(len(places))
    return np.sort(np.argsort(turn, kind="stable")[: declared.GALLERY_SIZE])


def _describe(encoder: str, numbers) -> tuple[np.ndarray, np.ndarray]:
    """Return middle maps (N, H, W, C) and embeddings (N, D) of numbered faces."""
    encode, params = load_encoder(encoder)
    source = face_source.load()

    @jax.jit
    def describe(source, params, latents, psi):
        drawn = face_source.FaceSource(_RESOLUTION).apply({"params": source}, latents, psi)
        crops = identity_crop(jnp.clip(drawn, -1.0, 1.0))
        return encode.middle(params, crops), encode(params, crops)

    rows = []
    for number in tqdm(numbers, "faces", unit="face"):
        maps, embedding = describe(source, params, *numbered_latents(number))
        rows.append((np.asarray(maps[0]), np.asarray(embedding[0])))
    maps, embeddings = (np.stack(part) for part in zip(*rows, strict=True))
    return maps, embeddings


def numbered_latents(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the latent (1, 512) and the truncation (1,) of a face that labels name by number."""
    random = np.random.RandomState(1000 + number)
    latent = random.normal(size=(1, face_source.LATENT_SIZE))
    return np.float32(latent), np.float32([random.uniform(*face_source.PSI_RANGE)])
