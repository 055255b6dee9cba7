"""Where numbers go: metrics.jsonl first, W&B as a mirror."""
