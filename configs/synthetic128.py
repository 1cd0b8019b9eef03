"""The model that ships: 128 px, quarter width, trained on faces of nobody.

    identitydp train --config configs/synthetic128.py --workdir runs/synthetic128 \\
        --export synthetic128.safetensors

Cost: 112,000 faces of the coarse network at 13 to 18 a second on two CPU cores, then 45,000 of the
whole one at 7 to 10. The shipped file came from nearly these settings; its model card
(identitydp_jax/models/shipped/synthetic128.md) lists the stages and the result.
This file, run as it is from step 0 to its end, has not been measured.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    # FOLDER, array_record:FOLDER or tfds:NAME of square faces in FFHQ framing, or "synthetic".
    config.data = "synthetic"
    # Of generated faces: how many are drawn from, and how many of them are replaced at every step.
    # Replaced ones live on the devices; with 0, for slow devices, a folder in the workdir is made.
    config.pool = 2424
    config.refresh = 0
    config.held_out = 24
    # So many faces are measured first, to know what the identities of people are like.
    config.population = 2048
    # Augments the faces; takes up to this share of fine detail from what the encoder sees.
    config.augmentation = True
    config.softening = 1.0
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 128,
            "width": 0.25,
            "widest": 512,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "pixel",
            "output": "tanh",
            "attribute_resolution": 32,
            "coarse": 64,
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 0.25})

    config.mixture = ml_collections.ConfigDict(
        {
            "same": 0.2,
            "twin": 0.3,
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
            "adversarial": 0.4,
            "identity": 6.0,
            "attributes": 0.0,
            "reconstruction": 250.0,
            # Beyond the paper: the discriminator's features where the truth is known, what leaks
            # of the original, colours, stripes and specks, and the expression.
            "texture": 5.0,
            "leak": 6.0,
            "colour": 100.0,
            "detail": 100.0,
            "landmarks": 10.0,
            "surroundings": 0.0,
            "edge": 0.0,
            "seam": 0.0,
            "styles": 0.0,
            "modulation": 0.0,
        }
    )
    config.learning_rate = 2.5e-4
    config.momentum = 0.5  # Adam's first beta
    config.clip = 0.0  # the largest norm of a gradient; 0: any
    config.average_decay = 0.998
    # From this step on batch norm uses fixed statistics of 1,024 faces, as it does in use: those of
    # small batches tell the network about the other faces, which an anonymized photo lacks.
    config.freeze_statistics_at = 4_900
    config.frozen_rate = 0.25  # times the learning rate, from then on

    config.batch_size = 8
    # The batch is worked through in this many parts, one after the other.
    config.accumulate = 1
    # Splits parameters, averages and moments over the devices instead of copying them.
    config.fsdp = False
    # "bfloat16" computes the networks in half precision; parameters, losses and statistics stay
    # float32.
    config.compute = "float32"
    # Computes the generator's blocks again in the backward pass instead of keeping their insides.
    config.remat = False
    # First so many steps of a network that draws the coarse face alone.
    config.styles_steps = 0
    config.coarse_steps = 14_000
    config.coarse_rate = 3.2  # times the learning rate, for these steps
    config.steps = 5_600
    config.log_every = 100
    # Checkpoints are measured on the held-out faces; the newest and the best one are kept.
    config.checkpoint_every = 500
    config.keep = 2
    return config
