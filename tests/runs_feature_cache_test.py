"""Features on disk: extracted once, whole or made again."""

import errno

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.runs import feature_cache

ANSWERS = np.arange(10, dtype=np.int32) * 10
# Places 3 and 7 could not be read.
PLACES = np.array([0, 1, 2, 4, 5, 6, 8, 9], np.int32)


def batches():
  for rows in (PLACES[:5], PLACES[5:]):
    yield np.repeat(rows, 12).reshape(-1, 2, 2, 3).astype(np.uint8), rows


def extract(images):
  return images[:, 0, 0, :2].astype(np.float32) + [0.1, 0.2]


def never(images):
  raise AssertionError("extracted twice")


@pytest.mark.parametrize("dtype, error", [("float32", 0), ("bfloat16", 2**-8)])
def test_extracted_once_and_read_back(tmp_path, dtype, error):
  path = feature_cache.path_of(str(tmp_path), 7, "dtd", 32, dtype)
  assert path.endswith(f"eval/features/7/dtd-32-{dtype}.npz")
  options = dict(dtype=dtype)
  first = feature_cache.cached(path, extract, batches, ANSWERS, **options)
  again = feature_cache.cached(path, never, batches, ANSWERS, **options)
  expected = PLACES[:, None] + np.float32([0.1, 0.2])
  for found in (first, again):
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, expected, rtol=max(error, 1e-7))
    np.testing.assert_array_equal(found.answers, 10 * PLACES)
    np.testing.assert_array_equal(found.places, PLACES)
  np.testing.assert_array_equal(first.features, again.features)
  if error:
    assert np.abs(first.features - expected).max() > 1e-4


def test_take_leaves_out_what_could_not_be_read(tmp_path):
  path = str(tmp_path / "x.npz")
  found = feature_cache.cached(path, extract, batches, ANSWERS)
  features, answers = found.take(np.array([9, 3, 4]))
  np.testing.assert_array_equal(answers, [40, 90])
  np.testing.assert_allclose(features[:, 0], [4.1, 9.1], rtol=1e-6)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_file_is_made_again(tmp_path, capsys, keep):
  path = tmp_path / "x.npz"
  first = feature_cache.cached(str(path), extract, batches, ANSWERS)
  path.write_bytes(path.read_bytes()[:keep])
  again = feature_cache.cached(str(path), extract, batches, ANSWERS)
  np.testing.assert_array_equal(first.features, again.features)
  assert "made again" in "".join(capsys.readouterr())
  feature_cache.cached(str(path), never, batches, ANSWERS)


def test_a_file_of_an_earlier_version_is_made_again(tmp_path, capfd):
  path = str(tmp_path / "x.npz")
  features = np.zeros((len(PLACES), 2), np.float32)
  np.savez(path, features=features, places=PLACES)
  found = feature_cache.cached(path, extract, batches, ANSWERS)
  assert found.features.any()
  told = capfd.readouterr().err
  assert "is of an earlier version; it is made again" in told
  assert "damaged" not in told


def test_mistakes(tmp_path):
  path = str(tmp_path / "x.npz")
  with pytest.raises(UserError, match="float16.*bfloat16"):
    feature_cache.cached(path, extract, batches, ANSWERS, dtype="float16")
  with pytest.raises(UserError, match="no picture"):
    feature_cache.cached(path, extract, lambda: iter(()), ANSWERS)


def test_another_precision_is_another_file(tmp_path):
  paths = {
    feature_cache.path_of(str(tmp_path), 7, "dtd", 32, dtype, precision=by)
    for dtype in feature_cache.TYPES
    for by in ("float32", "bfloat16")
  }
  assert len(paths) == 4


@pytest.mark.parametrize(
  "change",
  [
    {"answers": np.append(ANSWERS, np.int32(7))},
    {"key": "weights b"},
    {"version": 0},
  ],
)
def test_features_of_something_else_are_extracted_again(
  tmp_path, capfd, monkeypatch, change
):
  path = str(tmp_path / "a.npz")
  first = {"answers": ANSWERS, "key": "weights a"}
  feature_cache.cached(path, extract, batches, **first)
  feature_cache.cached(path, never, batches, **first)
  if "version" in change:
    monkeypatch.setattr(feature_cache, "VERSION", change.pop("version"))
  with pytest.raises(AssertionError, match="extracted twice"):
    feature_cache.cached(path, never, batches, **{**first, **change})
  assert "other weights or pictures" in capfd.readouterr().err


def test_a_full_disk_loses_no_features(tmp_path, monkeypatch, capfd):
  def full(path, *_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", path)

  monkeypatch.setattr(feature_cache, "_write", full)
  path = str(tmp_path / "a.npz")
  found = feature_cache.cached(path, extract, batches, ANSWERS)
  assert len(found.features) == len(PLACES)
  told = capfd.readouterr().err
  assert "No space left on device" in told and told.count("\n") == 1
