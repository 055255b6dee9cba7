"""ligo: grow a small pretrained transformer into a larger one, and count what that saved."""

__version__ = "0.1.0"
