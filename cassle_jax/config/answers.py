"""Answers to mistyped command lines: the line that would have worked."""

import argparse
import difflib
import os
from typing import Any

# What other trainers' flags are called -> what does it here.
_ELSEWHERE = {
  "resume": "the same command with the same --workdir continues the run",
  "continue": "the same command with the same --workdir continues the run",
  "gpus": "all devices are used; --config.mesh.data=N takes the first N",
  "gpu": "all devices are used; CUDA_VISIBLE_DEVICES=0 chooses one",
  "device": "JAX_PLATFORMS=cpu or JAX_PLATFORMS=cuda before the command",
  "cpu": "JAX_PLATFORMS=cpu before the command",
  "amp": "--config.precision=bfloat16",
  "fp16": "--config.precision=bfloat16",
  "bf16": "--config.precision=bfloat16",
  "data": "--config.data.source=folder:PATH",
  "dataset": "--config.data.source=folder:PATH",
  "data_path": "--config.data.source=folder:PATH",
  "data_root": "--config.data.source=folder:PATH",
  "arch": "--config.model.backbone=NAME",
  "img_size": "--config.data.image_size=N",
  "num_workers": "--config.data.threads=N",
  "debug": "--config=FILE:tiny",
  "verbose": "--config.log_every=1",
}
# Flags of a folder, elsewhere.
_FOLDERS = ("output", "output_dir", "out_dir", "save_dir", "log_dir", "logdir")


def unknown(flags: argparse.ArgumentParser, word: str, schema: Any) -> str:
  """What to write instead of a word that the command does not know.

  Args:
    flags: of the command.
    word: as it was typed.
    schema: of the command's config; None where it has none.

  Returns:
    Words to follow "unknown argument WORD".
  """
  name, equals, value = word.partition("=")
  plain = name.lstrip("-").replace("-", "_").removeprefix("config.")
  value = f"={value}" if equals else "=VALUE"
  own = [each for action in flags._actions for each in action.option_strings]
  if not word.startswith("-") and _is_config(word) and "--config" in own:
    return f"; write --config={word}"
  near = difflib.get_close_matches(f"--{plain}", own, n=1, cutoff=0.75)
  if near:
    return f"; did you mean {near[0]}{value if equals else ''}?"
  if plain in _FOLDERS and "--workdir" in own:
    return f"; write --workdir{value}"
  keys = schema.nearest(plain) if schema is not None else []
  if keys and (not word[:1].isalpha() or equals):
    kind = "did you mean" if len(keys) > 1 else "write"
    lines = " or ".join(f"--config.{key}{value}" for key in keys)
    return f"; {kind} {lines}{'?' if len(keys) > 1 else ''}"
  if plain in _ELSEWHERE:
    return f"; here it is: {_ELSEWHERE[plain]}"
  return f"; see {flags.prog} --help"


def _is_config(word: str) -> bool:
  file = word.partition(":")[0]
  return file.endswith((".py", ".json")) or os.path.isfile(f"configs/{file}.py")
