"""Tuning on instructions: adapters, quantised bases, batches of examples, and what is written in the end."""
