"""The model that ships: the paper's network on a pretrained generator, 128 px.

identitydp train --config configs/prior128.py --workdir runs/prior128 --export prior128.safetensors

"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data = "synthetic"
    config.pool = 6000
    config.refresh = 0
    config.held_out = 24
    config.population = 2048
    config.augmentation = True
    config.softening = 1.0
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 128,
            "width": 1.0,
            "widest": 192,
            "attribute_kernel": 1,
            "attribute_resolution": 32,
            "coarse": 64,
            "fusion": "prior",
            "encoder_norm": "group",
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 0.25})

    config.mixture = ml_collections.ConfigDict(
        {
            "same": 0.1,
            "twin": 0.2,
            "other": 0.4,
            "noised": 0.3,
            "epsilon": (50.0, 10000.0),
            "anchored": True,
        }
    )
    config.loss = ml_collections.ConfigDict(
        {
            "kind": "hinge",
            "reduction": "mean",
            "adversarial": 0.0,
            "identity": 8.0,
            "attributes": 0.0,
            "reconstruction": 100.0,
            "texture": 0.0,
            "leak": 6.0,
            "colour": 100.0,
            "detail": 20.0,
            "landmarks": 16.0,
            # Of a pretrained generator: what is around the face where it is known, the rim of the
            # region always, styles no stranger than those of nobody's faces, small modulation.
            "surroundings": 50.0,
            "edge": 20.0,
            "seam": 10.0,
            "styles": 1.0,
            "modulation": 10.0,
        }
    )
    config.learning_rate = 2e-4
    config.momentum = 0.9
    config.clip = 5.0
    config.average_decay = 0.998
    config.freeze_statistics_at = 10_000
    config.frozen_rate = 0.25

    config.batch_size = 8
    config.accumulate = 1
    config.fsdp = False
    config.compute = "float32"
    config.remat = False
    config.styles_steps = 3_000
    config.coarse_steps = 16_000
    config.coarse_rate = 1.0
    config.steps = 10_000
    config.log_every = 50
    config.checkpoint_every = 500
    config.keep = 1
    return config
