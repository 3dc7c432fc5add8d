"""The published sweep of the linear evaluation, for comparison, in torch."""

from collections.abc import Sequence

import numpy as np

from cassle_jax import errors


def sweep(
  features: np.ndarray,
  labels: np.ndarray,
  weights: Sequence[float],
  classes: int,
  *,
  max_iterations: int = 5000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Fits one classifier to one weight after another, from the last one on.

  L-BFGS with a strong Wolfe line search minimises the sum of cross-entropies
  plus weight * (||W||^2 + ||b||^2), in float32. Its tolerances are the
  published ones: 1e-10 of the gradient's largest entry, 0 of a change. On one
  thread: waiting threads spin, so more cost more CPU time.

  Args:
    features: [N, d] float32.
    labels: [N] int64.
    weights: in the order in which they are fitted.
    classes: C.
    max_iterations: upper bound for each weight.

  Returns:
    Kernels [R, d, C], biases [R, C] and whether each fit met the limit, of
    iterations or of the evaluations that go with it.

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
  inputs, targets = torch.from_numpy(features), torch.from_numpy(labels)
  classifier = torch.nn.Linear(features.shape[1], classes)
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
  return np.stack(kernels), np.stack(biases), np.array(limited)
