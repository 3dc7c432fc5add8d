"""Marks of sets: kept where a set moves, lost where it changes."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from cassle_jax import data
from cassle_jax.data import content
from cassle_jax.data.downstream.listed import JoinedSource
from cassle_jax.data.source import ArraySource, Source


@pytest.fixture
def pets(tmp_path):
  """Two classes of three pictures; BMP files of one size all."""
  for number in range(6):
    folder = tmp_path / "pets" / ("cat" if number < 3 else "dog")
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 4, 3), number, np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.bmp")
  return tmp_path / "pets"


def mark(folder, **options):
  return content.digest(data.open_source(f"folder:{folder}"), **options)


def test_a_folder_that_moved_is_the_same(pets, tmp_path, monkeypatch):
  before = mark(pets)
  shutil.copytree(pets, tmp_path / "elsewhere")
  assert mark(tmp_path / "elsewhere") == before
  monkeypatch.chdir(tmp_path)
  assert mark("pets") == before


def add(pets):
  shutil.copy(pets / "cat" / "0.bmp", pets / "cat" / "9.bmp")


def remove(pets):
  os.unlink(pets / "cat" / "0.bmp")


def rename(pets):
  os.rename(pets / "cat" / "0.bmp", pets / "cat" / "7.bmp")


def other_class(pets):
  os.rename(pets / "cat" / "0.bmp", pets / "dog" / "0.bmp")


def other_size(pets):
  Image.new("RGB", (5, 5)).save(pets / "cat" / "0.bmp")


@pytest.mark.parametrize(
  "change", [add, remove, rename, other_class, other_size]
)
def test_a_folder_that_changed_is_another(pets, change):
  before = mark(pets)
  change(pets)
  assert mark(pets) != before


def test_a_picture_of_the_same_size_is_noticed_by_its_time(pets):
  before, strict = mark(pets), mark(pets, times=True)
  path = pets / "cat" / "0.bmp"
  Image.new("RGB", (4, 4), "red").save(path)
  os.utime(path, ns=(1, 1))
  assert mark(pets) == before
  assert mark(pets, times=True) != strict


def test_a_file_that_is_gone_does_not_end_it(pets):
  source = data.open_source(f"folder:{pets}")
  before = content.digest(source)
  remove(pets)
  assert content.digest(source) != before


def test_arrays_are_told_by_pixels_and_order(monkeypatch):
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (8, 4, 4, 3), np.uint8)
  before = content.digest(ArraySource(images))
  assert content.digest(ArraySource(images.copy())) == before
  # Labels are no pictures.
  labeled = ArraySource(images, np.arange(8))
  assert content.digest(labeled) == before
  other = images.copy()
  other[5, 2, 1, 0] ^= 1
  for changed in (other, images[::-1], images[:7], images.reshape(8, 2, 8, 3)):
    assert content.digest(ArraySource(changed)) != before
  # Of a large one, a sample.
  monkeypatch.setattr(content, "BYTES", 1)
  assert content.digest(ArraySource(images)) == before


def test_sources_of_any_kind_have_one():
  class Mine(Source):
    def __init__(self, grey):
      self.grey = grey

    def __len__(self):
      return 100

    def picture(self, index):
      return Image.new("L", (2, 2), self.grey).convert("RGB")

    def locate(self, index):
      return "nowhere"

  assert content.digest(Mine(1)) == content.digest(Mine(1))
  assert content.digest(Mine(1)) != content.digest(Mine(2))
  images = np.zeros((3, 2, 2, 3), np.uint8)
  one, two = ArraySource(images), ArraySource(images + 1)
  ahead = content.digest(JoinedSource([one, two]))
  assert ahead != content.digest(JoinedSource([two, one]))


def test_parts_do_not_run_into_each_other():
  assert content.mark(b"ab", b"c") != content.mark(b"a", b"bc")
  numbers = np.arange(4, dtype=np.int32)
  assert content.mark(numbers) != content.mark(numbers.reshape(2, 2))
  assert content.mark(numbers) != content.mark(numbers.astype(np.int64))
