"""Tokens: what the rows of an embedding stand for, from the tokenizer's files."""
