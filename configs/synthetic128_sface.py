"""As synthetic128.py with SFace for ArcFace: no ingredient with a non-commercial licence.

    identitydp train --config configs/synthetic128_sface.py --workdir runs/synthetic128_sface \\
        --export synthetic128_sface.safetensors

Cost: not measured over a run, and not trained yet: its loss weights are those of synthetic128.py,
which were chosen for ArcFace. A pass through SFace and back took 174 ms a face where ArcFace's
MobileFaceNet took 513, both on two CPU cores with other work, so a step should take less time than
that of synthetic128.py.
"""

import pathlib

from identitydp_jax.training.configuration import read_config


def get_config():
    config = read_config(pathlib.Path(__file__).with_name("synthetic128.py"))
    config.encoder = "sface"
    config.network.identity_dimension = 128  # of the encoder's embeddings
    return config
