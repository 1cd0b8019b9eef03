"""How many faces and photos are anonymized per second, compiled and with everything at hand."""

import statistics

import jax
import numpy as np
import skimage.data

from identitydp_jax.anonymize.faces import anonymize_faces, load_model
from identitydp_jax.anonymize.methods import IdentityDP
from identitydp_jax.anonymize.photos import anonymize_photo
from identitydp_jax.benchmarks import timing
from identitydp_jax.benchmarks.report import Report, machine
from identitydp_jax.data.detection import Detector
from identitydp_jax.privacy import chacha
from identitydp_jax.privacy.keys import audit_master
from identitydp_jax.privacy.setting import PrivacySetting

_NOTES = (
    "Batches are aligned faces of random pixels, spread over all devices, from and to the host's"
    " memory, copies included. The photo is scikit-image's astronaut, 512 x 512 with one face:"
    " detected, aligned, anonymized and pasted back, from pixels to pixels.",
)


def bench(model_name: str, batch_sizes: list[int]) -> Report:
    """Measure batches of every size, and one photo at a time, with a model of `load_model`.

    Raises:
      UserError: the model or the pretrained files can't be had.
    """
    model, detector = load_model(model_name), Detector()
    setting = PrivacySetting(dimension=model.dimension)
    method, photo, master = IdentityDP(model, setting), skimage.data.astronaut(), audit_master(0)

    def whole():
        return anonymize_photo(method, photo, master=master, detector=detector)

    runs = {
        **{f"batch of {n}": _anonymizing(model, setting, n) for n in batch_sizes},
        "detection in a photo": lambda: detector.detect(photo),
        "a photo": whole,
    }
    counts = [*batch_sizes, 1, 1]
    rows = []
    for (name, taken), count in zip(timing.take_turns(runs).items(), counts, strict=True):
        seconds = statistics.median(taken)
        rows.append({"what": name, "ms": 1e3 * seconds, "per second": count / seconds})
    facts = {**machine(), "model": model.name, "resolution": f"{model.resolution} px"}
    return Report("anonymize", facts, rows, _NOTES)


def _anonymizing(model, setting, count: int):
    """Return a function that anonymizes a batch of faces."""
    shape = (count, model.resolution, model.resolution, 3)
    faces = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    keys = jax.random.split(chacha.key_from_bytes(bytes(32)), count)
    return lambda: anonymize_faces(model, faces, keys=keys, setting=setting)
