"""The evaluation suite over a run's folder: what `cassle_jax.evaluate` does.

`context` opens the run and the data sets, `representations` says what pictures
are represented by, `tasks` has the table of tasks, and `results` the files that
they leave behind. The protocols themselves are pure
functions in `cassle_jax.evaluation`.
"""
