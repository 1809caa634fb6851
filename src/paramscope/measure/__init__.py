"""Pure functions from arrays, or from singular values, to numbers. No file, no name."""
