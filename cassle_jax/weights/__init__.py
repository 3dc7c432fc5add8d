"""Weights in files, of anybody: read, named, and turned into variables.

`reader` opens a file, whatever its format, and runs nothing that is in it.
`torch_names` gives our variables the names of torch's state dicts, and back.
"""
