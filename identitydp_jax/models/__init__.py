"""Networks in Flax Linen, one file each."""
