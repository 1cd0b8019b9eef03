"""The command `identitydp anonymize` on one photo: seconds and peak memory of a cold process.

    python tests/benchmarks/anonymize_process.py [--runs 3]

scikit-image's astronaut is anonymized by a new process, first with an empty compilation cache,
then with the one that the first run left. The weights come from the user's cache. Also prints the
faces per second of a warm batch of 32 aligned faces.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import skimage.data
from PIL import Image

from identitydp_jax.anonymize.faces import anonymize_faces, load_model
from identitydp_jax.privacy import chacha
from identitydp_jax.privacy.setting import PrivacySetting
from identitydp_jax.weights import cache

_FACES = 32


def main():
    """Run the processes and the batch, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="default")
    args = parser.parse_args()
    model = load_model(args.model)  # fetches the encoder where it is missing
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        photo = folder / "astronaut.png"
        Image.fromarray(skimage.data.astronaut()).save(photo)
        compiled = shutil.ignore_patterns("compiled")
        first, warm = [], []
        for run in range(args.runs):
            home = folder / f"cache{run}"
            shutil.copytree(cache.directory(), home, ignore=compiled)
            first.append(_anonymize(photo, folder / f"first{run}", home, args.model))
            warm.append(_anonymize(photo, folder / f"warm{run}", home, args.model))
    for name, runs in (("first", first), ("compiled before", warm)):
        seconds, peaks = zip(*runs, strict=True)
        print(
            f"{name}: {statistics.median(seconds):.1f} s (of {args.runs} runs, the median),"
            f" peak {max(peaks):.0f} MB"
        )
    print(f"warm batch of {_FACES}: {_faces_per_second(model):.1f} faces/s")


def _anonymize(photo, output, home, model):
    """Return the wall seconds and the peak resident megabytes of one process."""
    command = [sys.executable, "-m", "identitydp_jax.cli", "anonymize", str(photo)]
    command += ["--output", str(output), "--audit-seed", "0", "--model", model]
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "IDENTITYDP_CACHE": str(home)})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return seconds, usage.ru_maxrss / 1024


def _faces_per_second(model):
    side = model.resolution
    faces = np.random.default_rng(0).integers(0, 256, (_FACES, side, side, 3), np.uint8)
    keys = jax.random.split(chacha.key_from_bytes(bytes(32)), _FACES)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        anonymize_faces(model, faces, keys=keys, setting=PrivacySetting())
        times.append(time.perf_counter() - start)
    return _FACES / statistics.median(times[1:])


if __name__ == "__main__":
    main()
