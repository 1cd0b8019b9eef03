"""Ours for accelerators: 256 px, half width, trained on faces of nobody that never run out.

    identitydp train --config configs/synthetic256.py --workdir runs/synthetic256 \\
        --export synthetic256.safetensors

The generator's faces lie on the devices, a pool of 32,768 and their twins (12.9 GB over all
devices) of which 16 pairs are new at every step. Half precision inside, parameters and losses in
float32. What it doesn't name is as in synthetic128.py, which explains every value.

Cost: 65 GFLOP a face (`launch/plan.py`), 15.4 million faces in all. Measured result: none
yet, it has not been trained.
"""

import pathlib

from identitydp_jax.training.configuration import read_config


def get_config():
    config = read_config(pathlib.Path(__file__).with_name("synthetic128.py"))
    config.pool = 32_768
    config.refresh = 16
    config.held_out = 64
    config.population = 4096
    config.network.resolution = 256
    config.network.width = config.discriminator.width = 0.5
    config.average_decay = 0.999
    config.freeze_statistics_at = 100_000
    config.batch_size = 128
    config.compute = "bfloat16"
    config.steps = 120_000
    config.checkpoint_every = 2_000
    return config
