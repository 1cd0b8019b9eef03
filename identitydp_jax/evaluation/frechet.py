"""How far two sets of pictures differ as wholes: the distance behind FID."""

import numpy as np

from identitydp_jax.checks import UserError


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Heusel et al., "GANs trained by a two
    time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017, equation 6, with
    covariances over N - 1. On features of the 2015 Inception it is the FID.

    With centred X, S = X'X / (N - 1), so the eigenvalues of S_a S_b are the squared singular values
    of X_a X_b', and the trace of the root is their sum. That needs no matrix root, and is as exact
    for fewer features than dimensions, where the root of a singular product is ill-conditioned.

    The estimate is biased upwards, the more the smaller the sets: compare figures only at one N,
    and state it.

    Args:
      features_a: (N, D).
      features_b: (M, D); N and M may differ.

    Returns:
      float, 0 or more; 0 for equal sets, to rounding.

    Raises:
      UserError: fewer than two rows, different D, or values that are not finite.
    """
    mean_a, root_a = _fit(features_a)
    mean_b, root_b = _fit(features_b)
    if len(mean_a) != len(mean_b):
        raise UserError(f"features of {len(mean_a)} and {len(mean_b)} dimensions: use one network")
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    spread = np.sum(root_a**2) + np.sum(root_b**2)
    distance = np.sum((mean_a - mean_b) ** 2) + spread - 2 * shared
    return max(0.0, float(distance))


def _fit(features):
    """Return the mean (D,) and R (K, D), K the smaller of N and D, with R'R the covariance."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"features of shape {features.shape}: give at least 2 rows, (N, D)")
    if not np.isfinite(features).all():
        raise UserError("the features are not finite: look at the pictures that they come from")
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    if len(root) > len(mean):  # else it is small already
        root = np.linalg.qr(root, mode="r")
    return mean, root
