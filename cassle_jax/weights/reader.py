"""Opens a weights file of any format, without torch and without running it.

Formats: safetensors, npz, and what torch.save writes (zip, and the one before
it). A file can only name classes; none is imported. Sizes that it claims are
checked against what it has before anything is read, and tensors are read one by
one when they are wanted.
"""

import contextlib
import json
import os
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from cassle_jax.errors import UserError
from cassle_jax.weights import flat_files, torch_file
from cassle_jax.weights.tensor import Damaged, Tensor, Weights

FORMATS = "safetensors, npz, and torch's .pth, .pt, .ckpt and .pth.tar"
# Enough to know a format by.
_HEAD = 512
_ENDINGS = (".safetensors", ".npz", ".pth", ".pt", ".ckpt", ".tar", ".bin")
# Where hubs and our exports have the first, the others are the same weights.
_SAFE, _SAME = "model.safetensors", ("model.pth", "pytorch_model.bin")


def read(path: str) -> Weights:
  """Opens a file; arrays stay on the disk until `array` asks for one.

  Args:
    path: of the file, or of a folder with one weights file in it.

  Raises:
    UserError: there is no such file, it is of another format, it is damaged,
      or it claims more than it has; a folder has several, or none.
  """
  if os.path.isdir(path):
    path = _only_file(path)
  if not os.path.isfile(path):
    raise UserError(f"there is no weights file {path}.")
  with one_line(path):
    weights = _read(path)
  if not weights.tensors:
    raise UserError(
      f"{path} ({weights.format}) has no tensors"
      + (
        f", only {', '.join(weights.foreign[:3])}." if weights.foreign else "."
      )
    )
  return weights


def _only_file(folder: str) -> str:
  """The weights file in a folder, as our exports and hubs have it."""
  names = sorted(n for n in os.listdir(folder) if n.endswith(_ENDINGS))
  if _SAFE in names:
    names = [name for name in names if name not in _SAME]
  if len(names) == 1:
    return os.path.join(folder, names[0])
  if names:
    shown = ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")
    raise UserError(
      f"{folder} has {len(names)} weights files; name one of them: {shown}."
    )
  raise UserError(
    f"{folder} is a folder without a weights file ({FORMATS}); name a file."
  )


def array(weights: Weights, name: str) -> np.ndarray:
  """Reads one tensor.

  Raises:
    UserError: the file cannot be read, or changed.
  """
  with one_line(weights.path):
    return weights.tensors[name].read()


def timm_config(path: str) -> dict[str, Any]:
  """What the config.json beside a file of timm says; {} where there is none."""
  beside = os.path.join(os.path.dirname(path), "config.json")
  try:
    with open(beside) as file:
      config = json.load(file)
  except (OSError, ValueError, RecursionError):
    return {}
  known = isinstance(config, dict) and isinstance(
    config.get("pretrained_cfg"), dict
  )
  return config if known else {}


@contextlib.contextmanager
def one_line(path: str) -> Iterator[None]:
  """Turns what a file's bytes can raise into a UserError of one line."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f"{path} cannot be read ({error.strerror or error})."
    ) from error
  except Damaged as error:
    raise UserError(
      f"{path} is damaged: {error}; get the file again."
    ) from error
  except Exception as error:
    # Parsers meet strangers' bytes: numpy, zipfile, json and pickletools raise
    # a dozen types for them, and all mean the same.
    words = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    raise UserError(
      f"{path} is damaged, or no weights file ({words}); these are read:"
      f" {FORMATS}."
    ) from error


def _read(path: str) -> Weights:
  with open(path, "rb") as file:
    head = file.read(_HEAD)
  if head.startswith(b"PK\x03\x04"):
    with zipfile.ZipFile(path) as archive:
      names = archive.namelist()
      if any(name.endswith("data.pkl") for name in names):
        return torch_file.read_zip(path, archive)
      if any(name.endswith(".npy") for name in names):
        return flat_files.read_npz(path, archive)
    raise Damaged("it is a zip file without data.pkl and without arrays")
  if head[8:9] == b"{":
    return flat_files.read_safetensors(path)
  if _begins_with_magic(head):
    return torch_file.read_legacy(path)
  raise UserError(f"{path} is no weights file: {_guess(head)}.")


def _begins_with_magic(head: bytes) -> bool:
  """Whether the first pickle is the magic number of torch's old format."""
  with contextlib.suppress(ValueError):
    for code, argument, _ in pickletools.genops(head):
      if argument == torch_file.MAGIC:
        return True
      if code.name not in ("PROTO", "FRAME"):
        break
  return False


def _guess(head: bytes) -> str:
  """What a file is that cannot be read, and what to do."""
  if not head:
    return "it is empty"
  if head.lstrip()[:1] == b"<":
    return "it is a web page, so the download failed; get the file again"
  if head.startswith(b"version https://git-lfs"):
    return "it is a pointer of Git LFS; fetch the file itself (git lfs pull)"
  if head[257:262] == b"ustar":
    return (
      "it is a tar file; unpack it, or, if torch before 0.1.10 wrote it, load"
      " and save it again with a newer torch"
    )
  if head.startswith(b"\x89HDF"):
    return "it is HDF5 (Keras), which is not read"
  if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
    return "it is compressed; unpack it first"
  if head.startswith(b"\x80"):
    return (
      "it is a pickle of another program than torch.save; load it there and"
      " save its arrays with numpy.savez"
    )
  return f"its first bytes are of no format that is read ({FORMATS})"


__all__ = ["FORMATS", "Tensor", "Weights", "array", "read", "timm_config"]
