"""One training loop for continued pretraining, the scratch baseline and small models."""
