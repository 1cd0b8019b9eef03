"""The paper: CelebA-HQ at 256 px, full width, its losses, weights and optimizer.

    identitydp train --config configs/paper_celebahq256.py --workdir runs/paper \\
        --export paper_celebahq256.safetensors

From IdentityDP (arXiv 2103.01745): the printed losses (14) to (17) with their sums, lambda_id = 5
and lambda_att = lambda_rec = 10 (18), Adam with betas 0 and 0.999 at 4e-4, CelebA-HQ at 256 px.
From FaceShifter (arXiv 1912.13457), whose network it takes: layers and widths, batch norm over all
devices, batches of 32, 500,000 steps, and one's own identity for a fifth of the faces. No
augmentation, no averaged parameters, no term of ours, no twins, and no noised identity: budgets
come in when the network is used. Unlike the paper's, it draws the face alone: what lies around it
stays as it is in the photo, in training as in use.

Neither says, so these are our choices: 1x1 attribute convolutions, a mask of one channel, three
strided layers in each discriminator. The paper's encoder was an ArcFace ResNet; for one that you
may use give `--set encoder=FILE.onnx`.

CelebA-HQ is for non-commercial research. tfds reads it once you have prepared it by hand, see
`tfds:celeb_a_hq` in its catalog; a folder of its pictures does as well: `--set data=FOLDER`.

Cost: 282 GFLOP a face (`launch/plan.py`). Measured result: none yet, it has not been trained.
"""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data = "tfds:celeb_a_hq/256"
    config.pool = 65_536
    config.refresh = 8
    config.held_out = 64
    config.population = 4096
    config.augmentation = False
    config.softening = 0.0
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 256,
            "width": 1.0,
            "widest": 1024,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "batch",
            "output": "tanh",
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 1.0})

    config.mixture = ml_collections.ConfigDict(
        {
            "same": 0.2,
            "twin": 0.0,
            "other": 0.8,
            "noised": 0.0,
            "epsilon": (1.0, 1.0),
            "anchored": False,
        }
    )
    config.loss = ml_collections.ConfigDict(
        {
            "kind": "log",
            "reduction": "sum",
            "adversarial": 1.0,
            "identity": 5.0,
            "attributes": 10.0,
            "reconstruction": 10.0,
            "texture": 0.0,
            "leak": 0.0,
            "colour": 0.0,
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
    config.momentum = 0.0
    config.clip = 0.0  # the largest norm of a gradient; 0: any
    config.average_decay = 0.0
    config.freeze_statistics_at = 500_001  # never: running statistics are used
    config.frozen_rate = 1.0

    config.batch_size = 32
    config.accumulate = 1
    config.fsdp = False
    config.compute = "float32"
    config.remat = False
    config.styles_steps = 0
    config.coarse_steps = 0
    config.coarse_rate = 1.0
    config.steps = 500_000
    config.log_every = 100
    config.checkpoint_every = 5_000
    config.keep = 2
    return config
