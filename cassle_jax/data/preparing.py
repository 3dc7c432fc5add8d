"""Writes a set as `prepared` reads it, in a pass that may be cut off anywhere.

Every shard holds the pictures of a fixed range of the source. A shard is whole
once its JSON lies beside it; a start that finds some does the rest, and the
bytes are those of a pass that was never cut off.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from cassle_jax.data import canvas, decode, jpeg, loading
from cassle_jax.data.prepared import FORMAT, LABELS, MANIFEST, SIZES
from cassle_jax.data.source import EncodedSource, Source
from cassle_jax.errors import UserError
from cassle_jax.runs import files

# What a cut-off pass has begun and not ended.
JOB = "job.json"
# Pictures of the source that a shard takes; about 200 MB of ImageNet.
_SHARD = 2048
# Of pictures that had to shrink: 1 of 255 from their pixels on the mean.
_QUALITY = {"quality": 95, "subsampling": 0}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A picture's file as it is kept, its true and its stored size."""

  data: bytes
  size: canvas.Size
  stored: canvas.Size


def picture(source: Source, index: int, side: int) -> Picture:
  """Reads a picture, checks that it decodes, and shrinks it if it must.

  Args:
    source: of the picture.
    index: of it.
    side: the longest that a side may be, in pixels.

  Raises:
    decode.CorruptImage: it cannot be decoded.
  """
  data = None
  # A source may change pictures after decoding; those are encoded anew.
  if isinstance(source, EncodedSource) and type(source).place != Source.place:
    data = source.encoded(index)
    pixels = jpeg.decode(data)
    image = decode.picture(data) if pixels is None else None
    size = pixels.shape[:2] if image is None else (image.height, image.width)
    if max(size) <= side:
      return Picture(data, source.true_size(index, size), size)
    image = Image.fromarray(pixels) if image is None else image
  else:
    image = source.picture(index)
  small = canvas.shrunk(image, side)
  buffer = io.BytesIO()
  if small is image:
    small.save(buffer, "PNG")
  else:
    small.save(buffer, "JPEG", **_QUALITY)
  size, stored = (image.height, image.width), (small.height, small.width)
  if data is not None:
    size = source.true_size(index, size)
  return Picture(buffer.getvalue(), size, stored)


def prepare(
  source: Source,
  folder: str,
  *,
  side: int = 512,
  on_error: str = "skip",
  threads: int = 0,
  shard: int = _SHARD,
  done: Callable[[int], Any] = lambda count: None,
) -> dict[str, Any]:
  """Writes one split; what is there of it already is kept.

  Args:
    source: the open set.
    folder: of the split; made where it does not exist.
    side: the longest that a side may be; larger pictures are shrunk to fit.
    on_error: "skip" leaves out a picture that cannot be decoded and names it,
      "stop" ends.
    threads: that read and decode; 0 takes two a core.
    shard: pictures of the source that a file takes.
    done: told how many more pictures are dealt with.

  Returns:
    The manifest.

  Raises:
    UserError: the folder holds another set, a picture cannot be read and
      `on_error` is "stop", or the disk is full.
  """
  job = {
    "format": FORMAT,
    "source": source.name,
    "split": source.split,
    "pictures": len(source),
    "side": side,
    "shard": shard,
  }
  with _writing(folder):
    os.makedirs(folder, exist_ok=True)
    finished = _check(folder, job)
    if finished is None:
      files.write_json(os.path.join(folder, JOB), job)
  if finished is not None:
    with _writing(folder):
      _tidy(folder)
    done(len(source))
    return finished
  labels = source.labels if source.has_labels else None
  facts = []
  for number, first in enumerate(range(0, len(source), shard)):
    indices = range(first, min(first + shard, len(source)))
    name = os.path.join(folder, f"pictures-{number:05}")
    held = _read(f"{name}.json")
    if held is None:
      held = _write_shard(
        source, indices, name, side, on_error, threads, labels, done
      )
    else:
      done(len(indices))
    facts.append(held)
  with _writing(folder):
    return _finish(folder, job, facts, source, labels is not None)


def _check(folder: str, job: dict[str, Any]) -> dict[str, Any] | None:
  """The manifest of a folder that is complete; None: there is work to do."""
  manifest = _read(os.path.join(folder, MANIFEST))
  before = manifest or _read(os.path.join(folder, JOB))
  if before is None and os.listdir(folder):
    raise UserError(f"{folder} holds other files; give an empty folder.")
  for key, value in job.items():
    if before is not None and before.get(key) != value:
      raise UserError(
        f"{folder} holds a set with {key} {before.get(key)!r} where this one "
        f"has {value!r}; give another folder."
      )
  return manifest


def _write_shard(
  source, indices, name, side, on_error, threads, labels, done
) -> dict[str, Any]:
  from array_record.python import array_record_module

  def load(index: int) -> Picture | str:
    try:
      return picture(source, index, side)
    except decode.CorruptImage as error:
      return f"{source.locate(index)}: {error}"

  sizes, kept, longest, left_out, shrunk = [], [], 0, [], 0
  path, part = f"{name}.array_record", f"{name}.part"
  with _writing(part):
    # One record a group: read by itself. Compressing JPEGs again gains nothing.
    writer = array_record_module.ArrayRecordWriter(
      part, "group_size:1,uncompressed"
    )
  with contextlib.closing(writer):
    threads = threads or decode.default_threads()
    for index, each in zip(
      indices, loading.ordered(load, indices, threads), strict=True
    ):
      done(1)
      if isinstance(each, str):
        if on_error == "stop":
          raise UserError(
            f"unreadable picture {each}. Repair or remove it, or leave such "
            "pictures out with --on_error=skip."
          )
        logging.warning("Left out %s.", each)
        left_out.append(each)
        continue
      with _writing(part):
        writer.write(each.data)
      kept.append(index)
      sizes.append(each.size)
      shrunk += each.stored != each.size
      longest = max(longest, *each.stored)
  with _writing(part):
    digest = _hash(part, sync=True)
    os.replace(part, path)
    facts = {
      "name": os.path.basename(path),
      "count": len(kept),
      "sha256": digest,
      "bytes": os.path.getsize(path),
      "longest": longest,
      "shrunk": shrunk,
      "left_out": left_out,
      "sizes": sizes,
      "labels": None if labels is None else labels[kept].tolist(),
    }
    files.write_json(f"{name}.json", facts)
  return facts


def _finish(folder, job, facts, source, labeled) -> dict[str, Any]:
  """Writes what describes all shards, the manifest last."""
  sizes = [size for each in facts for size in each.pop("sizes")]
  labels = [each.pop("labels") for each in facts]
  left_out = [text for each in facts for text in each.pop("left_out")]
  if not sizes:
    raise UserError(
      f"no picture of {source.name} can be read, the first {left_out[0]}."
    )
  arrays = {SIZES: np.array(sizes, np.int32)}
  if labeled:
    arrays[LABELS] = np.array(
      [label for each in labels for label in each], np.int32
    )
  hashes = {}
  for name, array in arrays.items():
    path = os.path.join(folder, name)
    with files.replacing(path) as file:
      np.save(file, array)
    hashes[name] = _hash(path)
  manifest = job | {
    "count": len(sizes),
    "labels": labeled,
    "class_names": list(source.class_names),
    "one_size": len(np.unique(arrays[SIZES], axis=0)) == 1,
    "longest": max(each.pop("longest") for each in facts),
    "shrunk": sum(each.pop("shrunk") for each in facts),
    "left_out": left_out,
    "shards": facts,
    "sha256": hashes,
  }
  manifest = files.plain(manifest)
  files.write_json(os.path.join(folder, MANIFEST), manifest)
  _tidy(folder)
  return manifest


def verify(folder: str, manifest: dict[str, Any]) -> None:
  """Reads a split through.

  Raises:
    UserError: a file is not the one that was written.
  """
  hashes = {each["name"]: each["sha256"] for each in manifest["shards"]}
  for name, digest in (hashes | manifest["sha256"]).items():
    path = os.path.join(folder, name)
    if not os.path.isfile(path) or _hash(path) != digest:
      raise UserError(
        f"{path} is not what was written; delete {folder} and prepare again."
      )


def _tidy(folder: str) -> None:
  """Deletes what only an unfinished pass needs."""
  for name in os.listdir(folder):
    beside = name.startswith("pictures-") and name.endswith((".json", ".part"))
    if beside or name == JOB or name.endswith(".tmp"):
      os.unlink(os.path.join(folder, name))


def _read(path: str) -> dict[str, Any] | None:
  try:
    with open(path, encoding="utf-8") as file:
      return json.load(file)
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise UserError(f"{path} is damaged ({error}); delete it.") from error


def _hash(path: str, *, sync: bool = False) -> str:
  with open(path, "rb") as file:
    if sync:
      os.fsync(file.fileno())
    return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(path: str):
  """One line for a disk that is full or may not be written."""
  try:
    yield
  except (OSError, RuntimeError) as error:
    raise UserError(
      f"{path} cannot be written ({error}); what is complete is kept, and the "
      "same command goes on from there."
    ) from error
