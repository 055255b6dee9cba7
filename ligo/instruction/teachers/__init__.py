"""Ways to reach a teacher; one file each, found by themselves."""
