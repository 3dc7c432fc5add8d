"""Writes a run's backbone for other programs, as a folder with a model card.

  python -m cassle_jax.convert export runs/a --format=timm --out=a_timm
  python -m cassle_jax.convert export runs/a --format=onnx --out=a_onnx \\
      --license=apache-2.0

timm: model.safetensors and config.json, which `local-dir:`, `hf-hub:` (once it
is uploaded, by the hub's own client) and `checkpoint_path` load strictly.
torchvision: model.pth and model.safetensors, a state dict without `fc`.
cassle: model.pth in the layout of the published CASSLE and AugSelf code, with
projector, gamma and what other heads there are; the same as safetensors.
detectron2: model.pth by the names of its ResNets.
onnx: model.onnx, compared with the run in onnxruntime before it is kept.
stablehlo: model.stablehlo, which jax.export serves on CPU, CUDA and TPU.

README.md says how the files are loaded, and holds data, config and what was
measured. With cassle_jax.json, `convert import` takes the first three back and
needs no flag. No torch is needed.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

from cassle_jax.config import cli
from cassle_jax.errors import UserError, unknown

FORMATS = ("timm", "torchvision", "cassle", "detectron2", "onnx", "stablehlo")


def main(arguments: Sequence[str]) -> int:
  """Parses the flags and writes the folder."""
  flags = cli.parser("cassle_jax.convert export", __doc__)
  flags.add_argument("run", metavar="RUN", help="folder of the run")
  flags.add_argument("--format", help=", ".join(FORMATS))
  flags.add_argument("--out", help="folder that is made")
  flags.add_argument(
    "--step", type=int, help="of the checkpoint; default the newest"
  )
  flags.add_argument(
    "--image_size",
    type=int,
    default=0,
    help="side in pixels that onnx and stablehlo take; 0: as trained",
  )
  flags.add_argument(
    "--license", default="other", help="of the weights, such as apache-2.0"
  )
  values, overrides = cli.parse(flags, arguments)
  if overrides:
    raise UserError(
      f"--config.{overrides[0]}: an export takes the config of the run; leave"
      " it out."
    )
  if values.format not in FORMATS:
    raise unknown("--format", values.format, FORMATS)
  if not values.out:
    raise UserError("name the folder that is made with --out=DIR.")
  values.out = values.out.rstrip("/") or "/"
  if os.path.isdir(values.out) and os.listdir(values.out):
    raise UserError(
      f"--out={values.out} is not empty; name a new folder, or delete it."
    )
  _check_parent(values.out)
  return _run(values)


def _check_parent(out: str) -> None:
  parent = os.path.dirname(os.path.abspath(out))
  if os.path.isfile(out) or not os.path.isdir(parent):
    reason = "it is a file" if os.path.isfile(out) else f"no folder {parent!r}"
  elif not os.access(parent, os.W_OK):
    reason = f"{parent!r} is write-protected"
  else:
    return
  raise UserError(
    f"--out={out}: cannot make it ({reason}); name a new folder in one that you"
    " can write to."
  )


def _run(values: argparse.Namespace) -> int:
  from cassle_jax.models.backbone import feature_size
  from cassle_jax.runs.logs import say
  from cassle_jax.training import trained

  run = trained.open_run(values.run, values.step)
  size = values.image_size or run.config.data.image_size
  if size != run.config.data.image_size:
    if values.format not in ("onnx", "stablehlo"):
      raise UserError(
        f"--image_size is of onnx and stablehlo; {values.format} takes pictures"
        " of any size, leave it out."
      )
    feature_size(run.setup.networks.backbone, size)  # Does the size suit it?
  parent = os.path.dirname(os.path.abspath(values.out))
  # Whole or not at all.
  temporary = tempfile.mkdtemp(prefix=".export-", dir=parent)
  try:
    written = write(
      temporary,
      run,
      workdir=values.run,
      format=values.format,
      name=os.path.basename(values.out),
      image_size=size,
      license_name=values.license,
    )
    os.chmod(temporary, 0o777 & ~_mask())
    os.replace(temporary, values.out)
  except OSError as error:
    raise UserError(
      f"--out={values.out}: cannot write it ({error.strerror or error}); make"
      " room, or name another folder."
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  sizes = ", ".join(f"{name} ({bytes / 1e6:.1f} MB)" for name, bytes in written)
  say(f"wrote {values.out}: {sizes}")
  return 0


def _mask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def write(
  folder: str,
  run: Any,
  *,
  workdir: str,
  format: str,
  name: str,
  image_size: int,
  license_name: str,
) -> list[tuple[str, int]]:
  """Writes the files of a format into a folder.

  Args:
    folder: that is there.
    run: from `trained.open_run`.
    workdir: the run's folder.
    format: one of FORMATS.
    name: that the card calls it by.
    image_size: side of the pictures in pixels.
    license_name: of the weights.

  Returns:
    (file, bytes) of each.

  Raises:
    UserError: the format has no place for such a network; a package is not
      there; a program gives other features than the run.
  """
  from cassle_jax.convert import card, onnx_networks, served, states, told
  from cassle_jax.weights import beside

  def path(file: str) -> str:
    return os.path.join(folder, file)

  if format in states.FORMATS:
    export = states.FORMATS[format](run, image_size, license_name)
    _write_states(export, path)
    if format in told.FORMATS:
      names = [n for n in sorted(os.listdir(folder)) if n.startswith("model.")]
      _write_json(path(beside.NAME), beside.packed(names, told.of(run)))
  else:
    make, file = {
      "onnx": (onnx_networks.onnx, onnx_networks.FILE),
      "stablehlo": (served.stablehlo, served.FILE),
    }[format]
    data, export = make(run, image_size)
    with open(path(file), "wb") as stream:
      stream.write(data)
  text = card.text(
    run,
    export,
    workdir=workdir,
    format=format,
    name=name,
    image_size=image_size,
    license_name=license_name,
  )
  with open(path("README.md"), "w", encoding="utf-8") as stream:
    stream.write(text)
  files = sorted(os.listdir(folder))
  return [(file, os.path.getsize(path(file))) for file in files]


def _write_states(export: Any, path: Any) -> None:
  import numpy as np

  from cassle_jax.convert import torch_writer

  if export.tensors is not None:
    try:
      from safetensors.numpy import save_file
    except ImportError:
      raise UserError(
        "such an export needs the package safetensors: pip install safetensors."
      ) from None
    tensors = {k: np.ascontiguousarray(v) for k, v in export.tensors.items()}
    save_file(tensors, path("model.safetensors"), metadata={"format": "pt"})
  if export.torch is not None:
    with open(path("model.pth"), "wb") as stream:
      torch_writer.write(stream, export.torch)
  for name, value in export.files.items():
    _write_json(path(name), value)


def _write_json(path: str, value: Any) -> None:
  with open(path, "w") as stream:
    json.dump(value, stream, indent=2)
    stream.write("\n")
