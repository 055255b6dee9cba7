"""Runs in, one self-contained comparison out."""
