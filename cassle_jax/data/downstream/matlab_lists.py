"""Sets whose labels are MATLAB files (read by SciPy, which JAX installs)."""

import os

import numpy as np

from cassle_jax.data.downstream.listed import ListSource
from cassle_jax.errors import UserError


def flowers102(folder: str, part: str) -> ListSource:
  """Oxford flowers (Nilsback & Zisserman, 2008).

  The owners' small parts: trnid and valid have ten pictures a class, tstid the
  rest. They publish no class names; a name is the class's number from 1.
  """
  labels = _variable(os.path.join(folder, "imagelabels.mat"), "labels")
  key = {"train": "trnid", "val": "valid", "test": "tstid"}[part]
  numbers = _variable(os.path.join(folder, "setid.mat"), key)
  labels = np.atleast_1d(labels).astype(np.int64)
  numbers = np.atleast_1d(numbers).astype(np.int64)
  return ListSource(
    folder,
    [f"jpg/image_{each:05d}.jpg" for each in numbers],
    labels[numbers - 1] - 1,
    [str(each) for each in range(1, int(labels.max()) + 1)],
  )


def cars(folder: str, part: str) -> ListSource:
  """Stanford cars (Krause et al., 2013).

  The labels of the test pictures are not in the owners' devkit but in
  cars_test_annos_withlabels.mat.
  """
  file = {
    "train": "devkit/cars_train_annos.mat",
    "test": "cars_test_annos_withlabels.mat",
  }[part]
  annotations = _variable(os.path.join(folder, file), "annotations")
  if "class" not in annotations.dtype.names:
    raise UserError(
      f"{os.path.join(folder, file)} has no classes; the devkit's "
      "cars_test_annos.mat is not enough, download "
      "cars_test_annos_withlabels.mat."
    )
  annotations = np.atleast_1d(annotations)
  names = _variable(os.path.join(folder, "devkit/cars_meta.mat"), "class_names")
  return ListSource(
    folder,
    [f"cars_{part}/{each}" for each in annotations["fname"]],
    [int(each) - 1 for each in annotations["class"]],
    [str(each) for each in np.atleast_1d(names)],
  )


def _variable(path: str, name: str) -> np.ndarray:
  """One variable of a .mat file, its dimensions of size 1 dropped.

  Raises:
    UserError: the file is damaged or lacks the variable.
  """
  from scipy import io

  # What the reader raises depends on where a damaged file goes wrong.
  try:
    return io.loadmat(path, squeeze_me=True, variable_names=[name])[name]
  except MemoryError:
    raise
  except Exception as error:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"{path} cannot be read ({text}); download it again."
    ) from error
