"""A run's folder belongs to one config."""

import json

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.run_folder import check_config, check_path

CONFIG = {
  "seed": 0,
  "optim": {"learning_rate": 0.03, "betas": (0.9, 0.999), "exclude": ()},
  "checkpoint": {"every": 10},
  "data": {"source": "bundled:earth", "threads": 2},
  "awareness": {},
}


def changed(**sections):
  return {
    key: {**value, **sections.get(key, {})}
    if isinstance(value, dict)
    else value
    for key, value in CONFIG.items()
  }


def test_the_first_run_writes_it(tmp_path):
  folder = str(tmp_path / "new" / "run")
  check_config(folder, CONFIG)
  with open(f"{folder}/config.json") as file:
    assert json.load(file) == json.loads(json.dumps(CONFIG))
  check_config(folder, CONFIG)
  check_config(folder, {**CONFIG, "seed": np.int64(0)})


def test_another_config_is_refused_with_all_differences(tmp_path):
  check_config(str(tmp_path), CONFIG)
  other = changed(optim={"learning_rate": 0.1, "clip": 1.0})
  del other["data"]["threads"]
  with pytest.raises(UserError) as error:
    check_config(str(tmp_path), other)
  line = str(error.value)
  assert "\n" not in line
  assert "optim.learning_rate is 0.1 (the run's: 0.03)" in line
  assert "optim.clip is 1.0 (the run's: absent)" in line
  assert "data.threads is absent (the run's: 2)" in line
  assert "seed" not in line


def test_free_keys_may_differ(tmp_path):
  check_config(str(tmp_path), CONFIG)
  other = changed(checkpoint={"every": 5}, data={"threads": 8})
  check_config(str(tmp_path), other, free=("checkpoint", "data.threads"))
  with pytest.raises(UserError, match="data.threads"):
    check_config(str(tmp_path), other, free=("checkpoint", "data.thread"))
  # What the run was started with stays on file.
  with open(tmp_path / "config.json") as file:
    assert json.load(file)["checkpoint"]["every"] == 10


def test_an_unreadable_file_is_refused(tmp_path):
  (tmp_path / "config.json").write_text('{"seed":')
  with pytest.raises(UserError, match="not readable as JSON"):
    check_config(str(tmp_path), CONFIG)


def test_paths_that_orbax_cannot_read_back(tmp_path):
  check_path("/tmp/a b/{x}*?")
  with pytest.raises(UserError, match=r"contains '\['"):
    check_config(str(tmp_path / "run[1]"), CONFIG)
  assert not list(tmp_path.iterdir())
