"""The command `identitydp anonymize` on one photo: seconds and peak memory of a cold process.

    python tests/benchmarks/anonymize_process.py [--runs 3]

scikit-image's astronaut is anonymized by a new process, first with an empty compilation cache,
then with the one that the first run left. The weights come from the user's cache. What a running
process does per second is `identitydp bench anonymize`.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import skimage.data
from PIL import Image

from identitydp_jax.anonymize.faces import load_model


def main():
    """Run the processes, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="default")
    args = parser.parse_args()
    load_model(args.model)  # fetches the encoder where it is missing
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        photo = folder / "astronaut.png"
        Image.fromarray(skimage.data.astronaut()).save(photo)
        first, warm = [], []
        for run in range(args.runs):
            compiled = folder / f"compiled{run}"
            first.append(_anonymize(photo, folder / f"first{run}", compiled, args.model))
            warm.append(_anonymize(photo, folder / f"warm{run}", compiled, args.model))
    for name, runs in (("first", first), ("compiled before", warm)):
        seconds, peaks = zip(*runs, strict=True)
        print(
            f"{name}: {statistics.median(seconds):.1f} s (of {args.runs} runs, the median),"
            f" peak {max(peaks):.0f} MB"
        )


def _anonymize(photo, output, compiled, model):
    """Return the wall seconds and the peak resident megabytes of one process."""
    command = [sys.executable, "-m", "identitydp_jax.cli", "anonymize", str(photo)]
    command += ["--output", str(output), "--audit-seed", "0", "--model", model]
    start = time.perf_counter()
    folder = {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    process = subprocess.Popen(command, env={**os.environ, **folder})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return seconds, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
