"""Growth as data (the plan), then as bytes (its execution), then as proof (verification)."""
