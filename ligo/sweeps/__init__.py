"""Many runs: what a study still needs, one run tried once, where it is tried, and how it stands."""
