"""Bytes on disk: safetensors in, a stock Hugging Face folder out."""
