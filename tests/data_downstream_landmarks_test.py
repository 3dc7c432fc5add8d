"""300-W: .pts files, the square crop and the targets."""

import math

import numpy as np
import pytest
from PIL import Image

from cassle_jax.data import downstream
from cassle_jax.data.downstream import landmarks
from cassle_jax.errors import UserError


def _points(place, width=30.0, height=40.0):
  generator = np.random.default_rng(place)
  return generator.uniform((12.25, 7.75), (12 + width, 7 + height), (68, 2))


def _pts(points):
  lines = [f"{x:.6f} {y:.6f}" for x, y in points]
  return "\n".join(["version: 1", "n_points:  68", "{", *lines, "}", ""])


def _faces(root, per_folder=5):
  folder = root / "300W"
  names = []
  for place, name in (("01_Indoor", "indoor"), ("02_Outdoor", "outdoor")):
    (folder / place).mkdir(parents=True)
    for number in range(1, per_folder + 1):
      names.append(f"{place}/{name}_{number:03d}")
  for place, name in enumerate(names):
    generator = np.random.default_rng(place)
    pixels = generator.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / f"{name}.pts").write_text(_pts(_points(place)))
  return folder, names


def _published(folder, name):
  """The published loader's crop and target, one landmark at a time."""
  lines = (folder / f"{name}.pts").read_text().splitlines()[3:-1]
  points = [tuple(map(float, line.split(" "))) for line in lines]
  left, right = min(x for x, _ in points), max(x for x, _ in points)
  top, bottom = min(y for _, y in points), max(y for _, y in points)
  side = max(math.ceil(right - left), math.ceil(bottom - top))
  with Image.open(folder / f"{name}.png") as image:
    face = image.convert("RGB").crop((left, top, left + side, top + side))
  flat = [v for x, y in points for v in ((x - left) / side, (y - top) / side)]
  norm = math.sqrt(sum(v * v for v in flat))
  return face, np.array([v / norm for v in flat])


def test_faces_and_targets_are_the_published_ones(tmp_path):
  folder, names = _faces(tmp_path)
  opened = downstream.open_set("300w", tmp_path, counts={"all": 10})
  assert len(opened) == 10 and opened.labels is None
  assert opened.targets.shape == (10, 136)
  assert opened.targets.dtype == np.float32
  for place, name in enumerate(names):
    face, target = _published(folder, name)
    assert opened.locate(place) == str(folder / f"{name}.png")
    found = opened.picture(place)
    assert found.size == face.size
    np.testing.assert_array_equal(np.asarray(found), np.asarray(face))
    np.testing.assert_allclose(opened.targets[place], target, atol=1e-6)


def test_batches_resize_whole_faces(tmp_path):
  folder, names = _faces(tmp_path)
  opened = downstream.open_set("300w", tmp_path, counts={"all": 10})
  found = list(downstream.batches(opened, 24, 4, indices=[7, 1, 2, 0, 9]))
  assert [images.shape for images, _ in found] == [
    (4, 24, 24, 3),
    (1, 24, 24, 3),
  ]
  face, target = _published(folder, names[7])
  whole = face.resize((24, 24), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(found[0][0][0], np.asarray(whole))
  np.testing.assert_allclose(found[0][1][0], target, atol=1e-6)
  np.testing.assert_array_equal(found[1][1], opened.targets[[9]])


def test_a_crop_beyond_the_edge_is_black(tmp_path):
  folder, names = _faces(tmp_path, 1)
  points = _points(0)
  points[0] = (45, 10)
  points[1] = (44, 70)
  (folder / f"{names[0]}.pts").write_text(_pts(points))
  opened = downstream.open_set("300w", tmp_path, counts={})
  image = np.asarray(opened.picture(0))
  # The picture ends 60 rows and 50 columns after its corner.
  assert image.shape[0] == image.shape[1] == 63
  assert not image[53:].any() and not image[:, 39:].any()
  assert image[:52, :37].any()


@pytest.mark.parametrize(
  "change",
  [
    lambda text: text.replace("}", "3.0 4.0\n}"),
    lambda text: text.replace("{", "{\nx y"),
    lambda text: text.replace("}", "").replace("{", ""),
    lambda text: text.replace("{", "{\n1 2 3", 1),
    lambda text: "",
  ],
)
def test_damaged_landmarks(tmp_path, change):
  folder, names = _faces(tmp_path, 1)
  path = folder / f"{names[1]}.pts"
  path.write_text(change(path.read_text()))
  with pytest.raises(UserError, match="outdoor_001.pts must hold 68 lines"):
    downstream.open_set("300w", tmp_path, counts={})


def test_numbers_that_are_not_finite(tmp_path):
  path = tmp_path / "a.pts"
  points = _points(0)
  points[3, 1] = np.nan
  path.write_text(_pts(points))
  with pytest.raises(UserError, match="a.pts must hold 68 lines"):
    landmarks.read_points(str(path))


def test_landmarks_far_outside_do_not_allocate(tmp_path):
  folder, names = _faces(tmp_path, 1)
  points = _points(0)
  points[0] = 1e9
  (folder / f"{names[0]}.pts").write_text(_pts(points))
  opened = downstream.open_set("300w", tmp_path, counts={})
  found = list(downstream.rows(opened, 8))
  np.testing.assert_array_equal(found[0][1], [1])


def test_a_corrupt_face_is_left_out(tmp_path):
  folder, names = _faces(tmp_path, 2)
  path = folder / f"{names[2]}.png"
  path.write_bytes(path.read_bytes()[:60])
  opened = downstream.open_set("300w", tmp_path, counts={"all": 4})
  images, targets = next(downstream.batches(opened, 8))
  assert images.shape == (3, 8, 8, 3)
  np.testing.assert_array_equal(targets, opened.targets[[0, 1, 3]])


def test_lost_files(tmp_path):
  folder, names = _faces(tmp_path, 2)
  (folder / f"{names[1]}.png").unlink()
  with pytest.raises(
    UserError, match=r"all has 3 pictures instead of 4 \(01_Indoor/indoor_002"
  ):
    downstream.open_set("300w", tmp_path, counts={"all": 4})
  for name in names:
    (folder / f"{name}.pts").unlink()
  with pytest.raises(UserError, match="holds no .pts files"):
    downstream.open_set("300w", tmp_path, counts={"all": 4})


def test_splits_are_thirds_of_all_faces(tmp_path):
  _faces(tmp_path)
  opened = downstream.open_set("300w", tmp_path, counts={"all": 10})
  drawn = downstream.splits("300w", seed=3, opened=opened)
  assert [len(each) for each in drawn[:3]] == [3, 3, 4]
  np.testing.assert_array_equal(
    np.sort(np.concatenate(drawn[:3])), np.arange(10)
  )
  other = downstream.splits("300w", seed=4, opened=opened)
  assert not np.array_equal(drawn.test, other.test)
