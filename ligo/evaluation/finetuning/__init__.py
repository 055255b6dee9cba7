"""Checkpoints under a head of another task, fine-tuned on it by the one training loop and scored."""
