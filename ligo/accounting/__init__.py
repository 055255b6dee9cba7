"""What was spent and what was saved: FLOPs, memory, savings."""
