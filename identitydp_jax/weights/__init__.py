"""Pretrained files: what exists, where each comes from, its hash and licence."""
