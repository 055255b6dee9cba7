"""Instructions made by a teacher model from a few seed tasks: prompt, parse, filter, keep."""
