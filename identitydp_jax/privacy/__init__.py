"""The privacy mechanism: arrays and keys, no images, no models."""

from identitydp_jax.privacy.mechanism import PrivacySetting, laplace, perturb

__all__ = ["PrivacySetting", "laplace", "perturb"]
