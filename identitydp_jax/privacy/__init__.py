"""The privacy mechanism: arrays and keys, no images, no models."""
