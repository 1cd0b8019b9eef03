"""As synthetic128.py with SFace for ArcFace: no ingredient with a non-commercial licence.

    identitydp train --config configs/synthetic128_sface.py --workdir runs/synthetic128_sface \\
        --export synthetic128_sface.safetensors

Cost: not measured over a run, and not trained yet: its loss weights are those of synthetic128.py,
which were chosen for ArcFace. A pass through SFace and back took 174 ms a face where ArcFace's
MobileFaceNet took 513, both on two CPU cores with other work, so a step should take less time than
that of synthetic128.py.
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
    config.encoder = "sface"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 128,
            "width": 0.25,
            "widest": 512,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "pixel",
            "output": "tanh",
            "identity_dimension": 128,  # of the encoder's embeddings
            "attribute_resolution": 16,
            "coarse": 64,
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 0.25})

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
            # Beyond the paper: the discriminator's features where the truth is known, what leaks
            # of the original, and colours.
            "texture": 5.0,
            "leak": 4.0,
            "colour": 100.0,
        }
    )
    config.learning_rate = 2.5e-4
    config.momentum = 0.5  # Adam's first beta
    config.average_decay = 0.998
    # From this step on batch norm uses fixed statistics of 1,024 faces, as it does in use: those of
    # small batches tell the network about the other faces, which an anonymized photo lacks.
    config.freeze_statistics_at = 1_500
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
    config.coarse_steps = 10_000
    config.coarse_rate = 3.2  # times the learning rate, for these steps
    config.steps = 2_000
    config.log_every = 100
    # Checkpoints are measured on the held-out faces; the newest and the best one are kept.
    config.checkpoint_every = 500
    config.keep = 2
    return config
