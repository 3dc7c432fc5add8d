"""The report over runs: what `python -m cassle_jax.report` reads and writes.

`runs` and `results` read folders without trust, `grouping` finds repetitions,
the tables and charts say what was measured, `sections` puts them in order,
`page` and `tables` print them, `command` writes the files.
"""
