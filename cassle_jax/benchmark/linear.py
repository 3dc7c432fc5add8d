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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cassle_jax import errors
from cassle_jax.benchmark import common
from cassle_jax.evaluation import logistic


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


# Widths of the columns.
_ROW = "{:<9}{:<12}{:>8}{:>8}{:>9}{:>15}{:>9}{:>10}"


def main(arguments: Sequence[str]) -> int:
  """Times the fits for all weights; torch's sweep beside."""
  flags = common.parser("linear", __doc__)
  flags.add_argument("--compare", choices=["torch"], help="time this beside")
  for name, default, words in (
    ("rows", 2000, "2000"),
    ("width", 512, "of features, 512"),
    ("classes", 20, "20"),
    ("weights", 45, "45, 1e-6 to 1e5"),
    ("max_steps", 1000, "1000"),
    ("rounds", 3, "problems (3)"),
  ):
    flags.add_argument(f"--{name}", type=int, default=default, help=words)
  flags.add_argument("--dtype", default="float32", help="float32 or float64")
  values, _ = common.parse(flags, arguments)

  weights = np.logspace(-6, 5, values.weights).tolist()
  calls: dict[str, Callable[[Problem], Sweep]] = {
    "cassle_jax": lambda problem: ours(
      problem, weights, values.classes, values.max_steps, values.dtype
    )
  }
  if values.compare:
    # Loads torch, so that no problem's time does.
    published(synthetic(8, 2, 2, 0), [1.0], 2)
    calls["torch"] = lambda problem: published(problem, weights, values.classes)
  problems, record = [], {}
  print(
    f"{values.weights} weights on {values.rows} x {values.width} features,"
    f" {values.classes} classes, {values.dtype}\n{common.place()}\n"
  )
  titles = ("problem", "by", "CPU s", "wall s", "at limit", "above optimum")
  print(_ROW.format(*titles, "weight", "accuracy"))
  for seed in range(values.rounds):
    problem = synthetic(values.rows, values.width, values.classes, seed)
    if seed == 0:
      cold, _ = common.timed(lambda p=problem: calls["cassle_jax"](p))
      record["cold"] = _seconds(cold)
      _print(0, "cold", record["cold"])
    found = {
      name: common.timed(lambda call=call, p=problem: call(p))
      for name, call in calls.items()
    }
    problems.append(_compared(seed, problem, weights, found))
  if values.compare:
    record["ratio"] = ratio = {
      key: sum(p["torch"][key] for p in problems)
      / sum(p["cassle_jax"][key] for p in problems)
      for key in ("cpu_s", "wall_s")
    }
    version = common.machine()["versions"].get("torch", "")
    print(
      f"\n{ratio['cpu_s']:.1f} times less CPU time than torch {version} over"
      f" all problems, {ratio['wall_s']:.1f} times less time."
    )
  names = ("rows", "width", "classes", "dtype")
  record |= {name: getattr(values, name) for name in names}
  record |= {"weights": weights, "problems": problems}
  common.write(values, "linear", record)
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


def published(
  problem: Problem,
  weights: Sequence[float],
  classes: int,
  *,
  max_iterations: int = 5000,
) -> Sweep:
  """The published sweep: one weight after another, from the last fit on.

  L-BFGS with a strong Wolfe line search minimises the sum of cross-entropies
  plus weight * (||W||^2 + ||b||^2), in float32. Its tolerances are the
  published ones: 1e-10 of the gradient's largest entry, 0 of a change. On one
  thread: waiting threads spin, so more cost more CPU time.

  Args:
    problem: what is fitted.
    weights: in the order in which they are fitted.
    classes: C.
    max_iterations: upper bound for each weight.

  Returns:
    What it found; the limit is one of iterations or of the evaluations that go
    with it.

  Raises:
    UserError: torch is not installed.
  """
  try:
    import torch
  except ImportError as error:
    raise errors.UserError(
      f"--compare=torch needs torch ({error}): pip install 'cassle_jax[peers]'."
    ) from error

  torch.set_num_threads(1)
  torch.manual_seed(0)
  inputs, targets = map(torch.from_numpy, problem[:2])
  classifier = torch.nn.Linear(inputs.shape[1], classes)
  parameters = list(classifier.parameters())
  kernels, biases, limited = [], [], []
  for weight in weights:
    optimizer = torch.optim.LBFGS(
      parameters,
      max_iter=max_iterations,
      tolerance_grad=1e-10,
      tolerance_change=0,
      line_search_fn="strong_wolfe",
    )

    def evaluate(optimizer=optimizer, weight=weight):
      optimizer.zero_grad()
      loss = torch.nn.functional.cross_entropy(
        classifier(inputs), targets, reduction="sum"
      )
      loss = loss + weight * sum(p.square().sum() for p in parameters)
      loss.backward()
      return loss

    optimizer.step(evaluate)
    (state,) = optimizer.state.values()
    limited.append(
      state["n_iter"] >= max_iterations
      or state["func_evals"] >= max_iterations * 5 // 4
    )
    kernels.append(classifier.weight.detach().numpy().T.copy())
    biases.append(classifier.bias.detach().numpy().copy())
  return Sweep(np.stack(kernels), np.stack(biases), np.array(limited))


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


def _seconds(cost: common.Cost) -> dict[str, float]:
  return {"cpu_s": cost.cpu / 1e3, "wall_s": cost.wall / 1e3}


def _print(seed: int, name: str, cost: dict[str, float], *rest: str) -> None:
  times = [f"{seconds:.2f}" for seconds in cost.values()]
  cells = [seed, name, *times, *(rest or [""] * 4)]
  print(_ROW.format(*cells).rstrip(), flush=True)


def _compared(
  seed: int,
  problem: Problem,
  weights: Sequence[float],
  found: dict[str, tuple[common.Cost, Sweep]],
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
    best, spent = int(np.argmax(right)), _seconds(cost)
    _print(
      seed,
      name,
      spent,
      f"{sweep.limited.sum()}",
      f"{gap.max():.1e}",
      f"{weights[best]:.2g}",
      f"{100 * right[best]:.1f}",
    )
    result[name] = spent | {
      "limited": sweep.limited.tolist(),
      "objective": reached[name],
      "gap": gap.tolist(),
      "weight": weights[best],
      "accuracy": right[best],
    }
  return result
