"""How long a linear evaluation's fits take: 45 weights on the same features.

  python -m cassle_jax.benchmark linear
  python -m cassle_jax.benchmark linear --compare=torch --json=linear.json
  python -m cassle_jax.benchmark linear --rows=75000 --width=2048 --classes=101

Beside it, the published sweep: torch's L-BFGS with strong Wolfe line search, up
to 5000 iterations for each weight, one weight after another from where the last
one ended, on one thread. In float32 its line search often gives up above the
optimum, or makes no progress until the limit. So for each problem, of another
seed, the table has how many weights met the limit, how far above the lowest
objective of both the worst one ended, and what held-out rows choose. CPU time
is that of all threads; "cold" is our first call, which compiles.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cassle_jax.benchmark import common
from cassle_jax.config import cli


class Problem(NamedTuple):
  """Features [N, d] float32 and labels [N] int64, to fit and to choose by."""

  features: np.ndarray
  labels: np.ndarray
  held_features: np.ndarray
  held_labels: np.ndarray


class Sweep(NamedTuple):
  """What a sweep found: kernels [R, d, C], biases [R, C], ends [R].

  A fit's end is True where it was the limit of its steps.
  """

  kernel: np.ndarray
  bias: np.ndarray
  limited: np.ndarray


class Cost(NamedTuple):
  """Seconds of CPU time over all threads, and of wall time."""

  cpu: float
  wall: float


def main(arguments: Sequence[str]) -> int:
  """Times the fits for all weights; torch's sweep beside."""
  flags = cli.parser("cassle_jax.benchmark linear", __doc__)
  flags.add_argument("--compare", choices=["torch"], help="time this beside")
  flags.add_argument("--json", metavar="FILE", help="write the numbers here")
  flags.add_argument("--rows", type=int, default=2000, help="2000")
  flags.add_argument("--width", type=int, default=512, help="of features, 512")
  flags.add_argument("--classes", type=int, default=20, help="20")
  flags.add_argument("--weights", type=int, default=45, help="45, 1e-6 to 1e5")
  flags.add_argument("--max_steps", type=int, default=1000, help="1000")
  flags.add_argument("--dtype", default="float32", help="float32 or float64")
  flags.add_argument("--rounds", type=int, default=3, help="problems (3)")
  values = flags.parse_args(arguments)
  common.check_counts(
    **{
      name: getattr(values, name)
      for name in ("rows", "width", "classes", "weights", "max_steps", "rounds")
    }
  )
  if values.json is not None:
    cli.check_output("--json", values.json)

  weights = np.logspace(-6, 5, values.weights).tolist()
  calls: dict[str, Callable[[Problem], Sweep]] = {
    "cassle_jax": lambda problem: ours(
      problem, weights, values.classes, values.max_steps, values.dtype
    )
  }
  if values.compare:
    from cassle_jax.benchmark import linear_torch

    # Loads torch, so that no problem's time does.
    tiny = synthetic(8, 2, 2, 0)
    linear_torch.sweep(tiny.features, tiny.labels, [1.0], 2)
    calls["torch"] = lambda problem: Sweep(
      *linear_torch.sweep(
        problem.features, problem.labels, weights, values.classes
      )
    )
  record: dict[str, Any] = {
    "command": "linear",
    "rows": values.rows,
    "width": values.width,
    "classes": values.classes,
    "weights": weights,
    "dtype": values.dtype,
    "problems": [],
    **common.machine(),
  }
  print(
    f"{values.weights} weights on {values.rows} x {values.width} features,"
    f" {values.classes} classes, {values.dtype}\n{record['device']}"
    f" ({record['processor']}, {record['cores']} cores)\n\n"
    f"{'problem':<9}{'by':<12}{'CPU s':>8}{'wall s':>8}"
    f"{'at limit':>9}{'above optimum':>15}{'weight':>9}{'accuracy':>10}"
  )
  for seed in range(values.rounds):
    problem = synthetic(values.rows, values.width, values.classes, seed)
    if seed == 0:
      cold, _ = _timed(calls["cassle_jax"], problem)
      _print(0, "cold", cold)
      record["cold"] = {"cpu_s": cold.cpu, "wall_s": cold.wall}
    found = {name: _timed(call, problem) for name, call in calls.items()}
    record["problems"].append(_compared(seed, problem, weights, found))
  if values.compare:
    ratio = {
      key: sum(p["torch"][key] for p in record["problems"])
      / sum(p["cassle_jax"][key] for p in record["problems"])
      for key in ("cpu_s", "wall_s")
    }
    print(
      f"\n{ratio['cpu_s']:.1f} times less CPU time than torch"
      f" {record['versions'].get('torch', '')} over all problems,"
      f" {ratio['wall_s']:.1f} times less time."
    )
    record["ratio"] = ratio
  if values.json:
    common.write(values.json, record)
  return 0


def synthetic(rows: int, width: int, classes: int, seed: int) -> Problem:
  """Rectified features with a falling spectrum, of classes that overlap.

  Args:
    rows: N; a fourth of it is held out beside.
    width: d.
    classes: C.
    seed: of everything.
  """
  generator = np.random.default_rng(seed)
  spectrum = (4 / np.sqrt(1 + np.arange(width))).astype(np.float32)
  mixing = generator.standard_normal((width, width), np.float32)
  mixing *= spectrum[:, None] / np.sqrt(width, dtype=np.float32)
  centres = 0.3 * generator.standard_normal((classes, width), np.float32)

  def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = generator.integers(0, classes, count)
    features = generator.standard_normal((count, width), np.float32)
    features += centres[labels]
    return np.maximum(features @ mixing + np.float32(0.3), 0), labels

  return Problem(*draw(rows), *draw(max(1, rows // 4)))


def ours(
  problem: Problem,
  weights: Sequence[float],
  classes: int,
  max_steps: int,
  dtype: str,
) -> Sweep:
  """The fits of `evaluation.logistic`."""
  from cassle_jax.evaluation import logistic

  fitted = logistic.fit(
    problem.features,
    problem.labels,
    weights,
    num_classes=classes,
    max_steps=max_steps,
    dtype=dtype,
  )
  kernel, bias = np.asarray(fitted.kernel), np.asarray(fitted.bias)
  return Sweep(kernel, bias, ~np.asarray(fitted.converged))


def objective(
  problem: Problem, sweep: Sweep, index: int, weight: float
) -> float:
  """In float64, with all digits where it is almost zero."""
  kernel = sweep.kernel[index].astype(np.float64)
  bias = sweep.bias[index].astype(np.float64)
  loss = 0.0
  for start in range(0, len(problem.labels), 4096):
    labels = problem.labels[start : start + 4096]
    logits = problem.features[start : start + 4096] @ kernel + bias
    rows = np.arange(len(labels))
    logits -= logits[rows, labels][:, None]
    logits[rows, labels] = -np.inf
    top = np.maximum(logits.max(axis=1), 0)
    others = np.exp(logits - top[:, None]).sum(axis=1)
    # log(1 + others), relative to the largest term; exact for small ones.
    loss += (top + np.log1p(np.expm1(-top) + others)).sum()
  return float(loss + weight * (np.sum(kernel**2) + np.sum(bias**2)))


def _timed(
  call: Callable[[Problem], Sweep], problem: Problem
) -> tuple[Cost, Sweep]:
  cpu, wall = time.process_time(), time.perf_counter()
  found = call(problem)
  return Cost(time.process_time() - cpu, time.perf_counter() - wall), found


def _print(seed: int, name: str, cost: Cost, rest: str = "") -> None:
  print(
    f"{seed:<9}{name:<12}{cost.cpu:>8.2f}{cost.wall:>8.2f}{rest}", flush=True
  )


def _compared(
  seed: int,
  problem: Problem,
  weights: Sequence[float],
  found: dict[str, tuple[Cost, Sweep]],
) -> dict[str, Any]:
  """Prints a line for each sweep; the numbers, also for each weight."""
  reached = {
    name: [objective(problem, sweep, *item) for item in enumerate(weights)]
    for name, (_, sweep) in found.items()
  }
  lowest = np.min(list(reached.values()), axis=0)
  result = {}
  for name, (cost, sweep) in found.items():
    gap = np.array(reached[name]) / lowest - 1
    right = []
    for kernel, bias in zip(sweep.kernel, sweep.bias, strict=True):
      guess = np.argmax(problem.held_features @ kernel + bias, axis=1)
      right.append(float(np.mean(guess == problem.held_labels)))
    best = int(np.argmax(right))
    _print(
      seed,
      name,
      cost,
      f"{sweep.limited.sum():>9}{gap.max():>15.1e}"
      f"{weights[best]:>9.2g}{100 * right[best]:>10.1f}",
    )
    result[name] = {
      "cpu_s": cost.cpu,
      "wall_s": cost.wall,
      "limited": sweep.limited.tolist(),
      "objective": reached[name],
      "gap": gap.tolist(),
      "weight": weights[best],
      "accuracy": right[best],
    }
  return result
