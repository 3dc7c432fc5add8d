"""The numbers that stand for large torch weights in the reference vectors.

Storing the weights of a ResNet would take megabytes, so the published code was
run on weights made by a hash: entry i of the k-th tensor of the state_dict is a
mix of (i, k). The golden files hold sums that check these weights.
"""

import numpy as np

WRAP = np.uint64(0xFFFFFFFF)


def symmetric(shape: tuple[int, ...], k: int, scale: float = 1.0):
  """Makes tensor number k, uniform in [-scale, scale), float32."""
  i = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
  x = i * np.uint64(0x9E3779B1) + np.uint64((k + 1) * 0x85EBCA77)
  x ^= (x & WRAP) >> np.uint64(16)
  x = (x & WRAP) * np.uint64(0x7FEB352D) & WRAP
  x ^= x >> np.uint64(15)
  x = x * np.uint64(0x846CA68B) & WRAP
  x ^= x >> np.uint64(16)
  unit = x.astype(np.float64) / 2**32
  return (scale * (2 * unit - 1)).reshape(shape).astype(np.float32)


def state_dict(names, shapes) -> dict[str, np.ndarray]:
  """Makes the state_dict of the golden backbones, without counters.

  Args:
    names: bytes, every entry in state_dict order, counters included.
    shapes: bytes such as b"[64, 3, 7, 7]".

  Returns:
    torch name -> float32 array; a fixed pos_embed is left out.
  """
  state = {}
  for k, (name, text) in enumerate(zip(names, shapes, strict=True)):
    name = name.decode()
    shape = tuple(int(n) for n in text.decode().strip("[]").split(",") if n)
    if name.endswith(("num_batches_tracked", "pos_embed")):
      continue
    unit = symmetric(shape, k)
    if name.endswith("running_mean"):
      value = 0.1 * unit
    elif name.endswith("running_var"):
      value = 1 + 0.5 * unit
    elif name.endswith("cls_token"):
      value = 0.02 * unit
    elif len(shape) >= 2:
      value = unit * np.sqrt(3 / np.prod(shape[1:]))
    elif name.endswith("weight"):
      value = 1 + 0.5 * unit
    else:
      value = 0.1 * unit
    state[name] = value.astype(np.float32)
  return state
