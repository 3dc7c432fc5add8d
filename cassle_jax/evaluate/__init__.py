"""The command `evaluate` and its suite of tasks.

`command` reads the flags, `own` measures a network that is no run's, `subject`
says what is measured, `context` opens the data sets, `representations` says
what pictures are represented by, `tasks` has the table of tasks, and `results`
the files that they leave behind. The protocols themselves are pure functions in
`cassle_jax.evaluation`.
"""

from cassle_jax.evaluate.command import main
from cassle_jax.evaluate.own import measure

__all__ = ["main", "measure"]
