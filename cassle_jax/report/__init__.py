"""The report over runs: `python -m cassle_jax.report`.

`runs` reads folders, `tables` and `charts` say what was measured in numbers and
pictures, `page` puts them into one HTML file.
"""
