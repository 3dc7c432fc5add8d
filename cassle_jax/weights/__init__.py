"""Weights in files, of anybody's: read, named, and turned into variables."""
