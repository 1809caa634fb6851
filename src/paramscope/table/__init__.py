"""Rows of numbers: what each column means, how a run is kept, how it is exported."""
