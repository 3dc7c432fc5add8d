"""The command `report`: tables, charts and a page over runs.

`runs` and `results` read folders without trust, `grouping` finds repetitions,
the tables and charts say what was measured, `sections` puts them in order,
`page` and `tables` print them, `command` writes the files.
"""

from cassle_jax.report.command import main

__all__ = ["main"]
