"""Measure every parameter of a transformer checkpoint."""

__version__ = "0.1.0"
