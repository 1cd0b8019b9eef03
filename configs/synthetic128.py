"""The model that ships: 128 px, eighth width, trained on faces of nobody."""

import ml_collections


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.data = "faces"
    config.encoder = "w600k_mbf"

    config.network = ml_collections.ConfigDict(
        {
            "resolution": 128,
            "width": 0.125,
            "attribute_kernel": 1,
            "mask": "one",
            "norm": "instance",
            "output": "tanh",
        }
    )
    config.discriminator = ml_collections.ConfigDict({"layers": 3, "width": 0.25})

    config.mixture = ml_collections.ConfigDict(
        {"same": 0.2, "other": 0.3, "noised": 0.25, "epsilon": (50.0, 10000.0)}
    )
    config.loss = ml_collections.ConfigDict(
        {
            "kind": "hinge",
            "reduction": "mean",
            "identity": 10.0,
            "attributes": 10.0,
            "reconstruction": 10.0,
        }
    )
    config.learning_rate = 4e-4
    config.average_decay = 0.998

    config.batch_size = 16
    config.steps = 20_000
    config.log_every = 50
    config.picture_every = 250
    config.checkpoint_every = 250
    config.keep = 2
    return config
