"""Training the networks as a GAN."""
