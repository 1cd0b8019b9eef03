"""How fast the exact discrete Laplace sampler is, beside OpenDP's on the same cores.

    python tests/benchmarks/discrete_laplace.py [--epsilon 6] [--rounds 5] [--rows 1 32 256]

Both draw discrete Laplace noise of the same integer scale for vectors of 512 coordinates, in turns,
so that whatever else the machine does slows both. Ours is what `identitydp bench mechanism` times,
with every core that XLA takes; OpenDP's `make_laplace` runs in one process per core, the start of
the processes not counted. Prints values per second of each round, the ratios of the medians and the
milliseconds a row takes. Needs `pip install opendp`.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time

from identitydp_jax.benchmarks.mechanism import releasing
from identitydp_jax.privacy.calibration import EMBEDDING_DIM
from identitydp_jax.privacy.setting import PrivacySetting


def main():
    """Measure in turns and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn, at least")
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1, 32, 256], help="embeddings in a batch"
    )
    args = parser.parse_args()

    setting = PrivacySetting("laplace", args.epsilon)
    scale = setting.noise.sensitivity / args.epsilon
    draws = {f"{rows} rows": _ours(setting, rows) for rows in args.rows}
    cores = len(os.sched_getaffinity(0))
    rates = {name: [] for name in (*draws, "opendp")}
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        pool.map(_opendp_rate, [(scale, 0.1)] * cores, chunksize=1)  # imports and warms
        for _ in range(args.rounds):
            for rows, (name, draw) in zip(args.rows, draws.items(), strict=True):
                rates[name].append(_rate(draw, rows * EMBEDDING_DIM, args.seconds))
            turns = pool.map(_opendp_rate, [(scale, args.seconds)] * cores, chunksize=1)
            rates["opendp"].append(sum(turns))
    median = {name: statistics.median(values) for name, values in rates.items()}
    figures = {
        "cores": cores,
        "scale": round(scale),
        "values_per_second": {name: [round(x) for x in values] for name, values in rates.items()},
        "times_opendp": {name: round(median[name] / median["opendp"], 1) for name in draws},
        "milliseconds_per_row": {
            name: round(1000 * EMBEDDING_DIM / median[name], 4) for name in draws
        },
    }
    print(json.dumps(figures, indent=1))


def _ours(setting, rows):
    """Return a function that releases a batch and waits for it, compiled."""
    run = releasing(setting, rows)
    run().block_until_ready()
    return lambda: run().block_until_ready()


def _rate(draw, values, seconds):
    """Return values per second of a function that draws `values` at a time."""
    start, drawn = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        draw()
        drawn += values
    return drawn / elapsed


def _opendp_rate(task):
    """Return OpenDP's values per second in this process."""
    import opendp.prelude as dp

    scale, seconds = task
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    noisy = dp.m.make_laplace(*space, scale=scale)
    zeros = [0] * EMBEDDING_DIM
    return _rate(lambda: noisy(zeros), EMBEDDING_DIM, seconds)


if __name__ == "__main__":
    main()
