"""Ours for accelerators: 256 px, half width, trained on faces of nobody that never run out.

    identitydp train --config configs/synthetic256.py --workdir runs/synthetic256 \\
        --export synthetic256.safetensors

The generator's faces lie on the devices, a pool of 32,768 and their twins (12.9 GB over all
devices) of which 16 pairs are new at every step. Half precision inside, parameters and losses in
float32.

Cost: 65 GFLOP a face (`launch/plan.py`), 15.4 million faces in all. Measured result: none
yet, it has not been trained.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data = "synthetic"
    config.pool = 32_768
    config.refresh = 16
    config.held_out = 64
    config.population = 4096
    config.augmentation = True
    config.softening = 1.0
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 256,
            "width": 0.5,
            "widest": 512,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "pixel",
            "output": "tanh",
            "attribute_resolution": 16,
            "coarse": 64,
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 0.5})

    config.mixture = ml_collections.ConfigDict(
        {"same": 0.2, "twin": 0.35, "other": 0.1, "noised": 0.2, "epsilon": (50.0, 10000.0)}
    )
    config.loss = ml_collections.ConfigDict(
        {
            "kind": "hinge",
            "reduction": "mean",
            "adversarial": 0.3,
            "identity": 4.0,
            "attributes": 0.0,
            "reconstruction": 200.0,
            "texture": 5.0,
            "leak": 4.0,
            "colour": 100.0,
        }
    )
    config.learning_rate = 2.5e-4
    config.momentum = 0.5
    config.average_decay = 0.999
    config.freeze_statistics_at = 100_000
    config.frozen_rate = 0.25

    config.batch_size = 128
    config.accumulate = 1
    config.fsdp = False
    config.compute = "bfloat16"
    config.remat = False
    config.coarse_steps = 10_000
    config.coarse_rate = 3.2
    config.steps = 120_000
    config.log_every = 100
    config.checkpoint_every = 2_000
    config.keep = 2
    return config
