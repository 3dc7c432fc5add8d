"""Run folders as training and evaluation leave them, without either."""

import json
import os

import numpy as np
from PIL import Image

OPS = ("crop", "jitter")
EDGES = [-0.5, 0.0, 0.5, 1.0]


def make(
  folder,
  *,
  method="simclr",
  backbone="resnet50",
  awareness="cassle",
  seed=0,
  published=None,
  **overrides,
):
  """Writes a run's config.json; overrides are top-level keys."""
  os.makedirs(folder)
  config = {
    "method": {"name": method, "temperature": 0.2},
    "model": {"backbone": backbone, "omega": ["color", "crop"], "norm": None},
    "awareness": {"name": awareness},
    "data": {"source": "folder:photos", "image_size": 224, "workers": seed},
    "checkpoint": {"every": 10 + seed},
    "epochs": 100.0,
    "seed": seed,
    "published": published,
  } | overrides
  write(folder, "config.json", config)
  return str(folder)


def write(folder, name, value):
  """Writes JSON, or text as it stands."""
  path = os.path.join(folder, name)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "w") as file:
    file.write(value if isinstance(value, str) else json.dumps(value))


def result(folder, task, name, value, details=None, **more):
  """Writes a result."""
  record = {
    "task": task,
    "dataset": name.rpartition("-")[0] or name,
    "metric": "top1",
    "value": value,
    "interval": None,
    "unit": "%",
    "step": 100,
    "seed": 0,
    "settings": {},
    "protocol": {},
    "details": details or {},
  }
  write(folder, f"eval/{task}/{name}.json", record | more)


def measured(folder, shift=0.0):
  """Writes one result of every task, and the log, on "earth"."""
  result(folder, "linear", "earth", 60 + shift)
  top1 = {"1": 50 + shift, "20": 55 + shift, "200": 52 + shift}
  result(folder, "knn", "earth", 55 + shift, {"top1": top1})
  shots = {"way": 5, "shot": 1}
  result(folder, "few_shot", "cub200-1shot", 40 + shift, shots, interval=0.4)
  blocks = ("stem", "features", "projection")
  ops = {
    op: {
      block: {"infonce": 1 + i + shift / 10, "positive": 0.9, "negative": 0.1}
      for i, block in enumerate(blocks)
    }
    for op in OPS
  }
  result(folder, "sensitivity", "earth", 2 + shift / 10, {"ops": ops})
  told = {
    name: {"mean": mean, "histogram": [1, 3, 6]}
    for name, mean in (
      ("true", 0.9),
      ("other", 0.8 - shift / 10),
      ("neutral", 0.7),
      ("noise", 0.1),
    )
  }
  details = {"ops": dict.fromkeys(OPS, told), "edges": EDGES}
  result(folder, "wrong_omega", "earth", 0.1 + shift / 10, details)
  score = {"linear": 0.4 + shift / 10, "mlp": 0.5, "score": "r2"}
  yes_no = {"linear": 0.7, "mlp": None, "score": "auc"}
  fields = {"crop": score, "flip": yes_no}
  details = {"single": fields, "pairs": fields}
  result(folder, "probe", "earth", 0.5, details)
  curve = {
    "strength": [0.0, 0.5, 1.0],
    "mean": [1.0, 0.9, 0.8 - shift / 10],
    "interval": [0.0, 0.1, 0.1],
    "unit": "factor",
    "neutral": 0.0,
    "trained": [0.0, 0.5],
  }
  details = {"curves": {"brightness": curve}}
  result(folder, "strength", "earth", 0.9, details)
  values = (np.arange(1, 61.0) ** -1.5).tolist()
  details = {"eigenvalues": values, "alpha": 1.5 + shift / 10}
  result(folder, "spectrum", "earth", 30 + shift, details)
  details = {"k": 8, "panel": "earth.png"}
  result(folder, "retrieval", "earth", 50 + shift, details)
  path = os.path.join(folder, "eval/retrieval/earth.png")
  Image.new("RGB", (20, 10), (10, 200, 10)).save(path)
  lines = [{"step": s, "loss": 5 - s / 50 + shift / 10} for s in (0, 50, 100)]
  lines += [{"step": s, "knn_top1": 0.3 + s / 500} for s in (0, 100)]
  lines += spent(shift)
  write(folder, "metrics.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
  summary = {"step": 100, "loss": 3.0, "knn_top1": 0.5, "device": "cpu"}
  write(folder, "summary.json", summary)


def spent(shift=0.0):
  """Two starts of a run: the first was killed after step 60, saved at 50."""
  first = {"init": 20.0, "compile": 40.0, "step": 300.0 + shift, "data": 9.0}
  second = {"init": 15.0, "compile": 5.0, "step": 250.0, "data": 7.0}
  second |= {"save": 12.0, "evaluation": 60.0, "other": 4.0}
  return [
    {
      "step": step,
      "goodput": {
        "start": start,
        "from_step": from_step,
        "lost_steps": lost,
        "seconds": seconds,
      },
    }
    for step, start, from_step, lost, seconds in (
      (60, 1000.0, 0, 0, first),
      (100, 2000.0, 50, 10, second),
    )
  ]
