"""Faces: detection, alignment, sources and input pipelines."""
