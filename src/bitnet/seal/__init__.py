"""Compiler, ELF checks, and the embedding of a model into the executable."""
