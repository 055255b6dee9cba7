"""Text in, fixed batches of tokens out, each a pure function of (seed, step)."""
