"""IdentityDP face anonymization in JAX."""

__version__ = "0.1.0"
