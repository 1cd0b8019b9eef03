"""The whole program once, small: 64 px, a sixteenth of the width, on generated faces.

    identitydp train --config configs/smoke_cpu.py --workdir runs/smoke --export smoke.safetensors

Shows that an installation trains, saves, resumes, evaluates and exports, not that it learns.

Cost: 74 s on two idle CPU cores before it trained on twins, with nothing compiled before and the
pretrained files in the cache. Measured result: none yet on twins.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data = "synthetic"
    config.pool = 64
    config.refresh = 0
    config.held_out = 8
    config.population = 64
    config.augmentation = True
    config.softening = 1.0
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 64,
            "width": 0.0625,
            "widest": 512,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "pixel",
            "output": "tanh",
            "attribute_resolution": 16,
            "coarse": 32,
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 2, "width": 0.125})

    config.mixture = ml_collections.ConfigDict(
        {
            "same": 0.1,
            "twin": 0.5,
            "other": 0.1,
            "noised": 0.2,
            "epsilon": (50.0, 10000.0),
            "anchored": False,
        }
    )
    config.loss = ml_collections.ConfigDict(
        {
            "kind": "hinge",
            "reduction": "mean",
            "adversarial": 1.0,
            "identity": 3.0,
            "attributes": 10.0,
            "reconstruction": 50.0,
            "texture": 10.0,
            "leak": 2.0,
            "colour": 50.0,
            "detail": 0.0,
            "landmarks": 0.0,
            "surroundings": 0.0,
            "edge": 0.0,
            "seam": 0.0,
            "styles": 0.0,
            "modulation": 0.0,
        }
    )
    config.learning_rate = 4e-4
    config.momentum = 0.5
    config.clip = 0.0  # the largest norm of a gradient; 0: any
    config.average_decay = 0.9
    config.freeze_statistics_at = 1_000
    config.frozen_rate = 0.25

    config.batch_size = 8
    config.accumulate = 1
    config.fsdp = False
    config.compute = "float32"
    config.remat = False
    config.styles_steps = 0
    config.coarse_steps = 20
    config.coarse_rate = 1.0
    config.steps = 60
    config.log_every = 10
    config.checkpoint_every = 30
    config.keep = 1
    return config
