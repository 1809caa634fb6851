"""The token embedding: found, read, measured, clustered, and named by its tokens."""
