"""The command `evaluate` and its suite of tasks over a run's folder.

`command` reads the flags, `context` opens the run and the data sets,
`representations` says what pictures are represented by, `tasks` has the table
of tasks, and `results` the files that they leave behind. The protocols
themselves are pure functions in `cassle_jax.evaluation`.
"""

from cassle_jax.evaluate.command import main

__all__ = ["main"]
