"""IdentityDP face anonymization in JAX.

The names below are the library; each loads its module, and with it JAX, on first use.
"""

import importlib
import os

# Before anything imports onnxruntime, which otherwise writes a device id into the user's cache and
# reports to its maker (since 1.29 on Linux and macOS). Whatever was set: photos are private.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

_HOMES = {
    "Detector": "identitydp_jax.data.detection",
    "IdentityDP": "identitydp_jax.anonymize.methods",
    "PrivacySetting": "identitydp_jax.privacy.setting",
    "UserError": "identitydp_jax.checks",
    "anonymize_faces": "identitydp_jax.anonymize.faces",
    "anonymize_photo": "identitydp_jax.anonymize.photos",
    "load_model": "identitydp_jax.anonymize.faces",
    "load_or_create": "identitydp_jax.privacy.keys",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    """Return a public name from the module that it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
