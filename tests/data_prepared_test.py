"""Prepared sets: the same pictures, and the same bytes however often killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jpeg_corpus
import numpy as np
import pytest

import cassle_jax
from cassle_jax import data, prepare
from cassle_jax.data import content, prepared, preparing
from cassle_jax.errors import UserError
from cassle_jax.runs import lock

SIZES = ((40, 60), (70, 33), (64, 64), (90, 120), (20, 20), (64, 65))


def _folder(root, splits=("train", "val"), count=6):
  for split in splits:
    for place in range(count):
      path = root / split / "ab"[place % 2] / f"{place:03}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      jpeg_corpus.picture(*SIZES[place % len(SIZES)], place).save(path)
  return f"folder:{root}"


def _bytes(folder):
  return {
    path.name: path.read_bytes()
    for path in sorted(pathlib.Path(folder).iterdir())
  }


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  root = tmp_path_factory.mktemp("prepared")
  source = _folder(root / "pictures")
  assert prepare.main([source, str(root / "out"), "--side=64"]) == 0
  return source, f"prepared:{root}/out"


def test_pictures_that_fit_are_kept_byte_for_byte(sets):
  assert data.split_names(sets[1]) == ("train", "val")
  source, ours = (data.open_source(each) for each in sets)
  assert len(ours) == len(source) == 6
  assert ours.class_names == ("a", "b")
  np.testing.assert_array_equal(ours.labels, source.labels)
  for index in range(6):
    pixels, label = source.get(index)
    np.testing.assert_array_equal(ours.sizes[index], pixels.shape[:2])
    assert ours.label(index) == label
    if max(pixels.shape) <= 64:
      assert ours.encoded(index) == source.encoded(index)


def test_larger_pictures_are_shrunk_and_keep_their_true_size(sets):
  source, ours = (data.open_source(each) for each in sets)
  expected, canvas = np.zeros((2, 64, 64, 3), np.uint8)
  for index in range(6):
    size = source.place(index, expected)
    assert ours.place(index, canvas) == size
    # JPEG at quality 95, in full colour.
    different = np.abs(canvas.astype(int) - expected)
    assert different.mean() < (2.5 if max(size[0]) > 64 else 1e-9)


def test_training_from_either_gives_the_same_batches(sets):
  streams = []
  for source in sets:
    built = data.build(
      source=source, split="val", image_size=24, canvas_size=64, batch_size=3
    )
    batches = built.batches(1)
    streams.append([next(batches)["index"] for _ in range(5)])
    sizes = built.resident["size"], built.resident["stored"]
    streams[-1].extend(sizes)
  for one, other in zip(*streams, strict=True):
    np.testing.assert_array_equal(one, other)


def test_the_canvas_is_no_larger_than_the_pictures(sets):
  built = data.build(source=sets[1], image_size=224, batch_size=3)
  assert built.canvas_size == 64


def test_evaluation_reads_a_prepared_set(sets):
  assert data.labeled_splits(sets[1]) == ("train", "val")
  images, labels = data.labeled_images(sets[1], "val", 32)
  assert images.shape == (6, 32, 32, 3)
  assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_prepared_set_can_be_prepared_smaller(sets, tmp_path, capsys):
  assert prepare.main([sets[1], str(tmp_path), "--side=32"]) == 0
  assert "6 pictures" in capsys.readouterr().out
  before, ours = (
    data.open_source(sets[1]),
    data.open_source(f"prepared:{tmp_path}"),
  )
  np.testing.assert_array_equal(ours.sizes, before.sizes)
  assert ours.longest == 32


def test_arrays_keep_their_pixels(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (5, 9, 8, 3), np.uint8)
  np.save(tmp_path / "a.npy", images)
  source = data.open_source(f"npy:{tmp_path}/a.npy")
  preparing.prepare(source, str(tmp_path / "out" / "train"), shard=2)
  ours = data.open_source(f"prepared:{tmp_path}/out")
  assert ours.shape == (9, 8) and ours.labels is None
  for index in range(5):
    np.testing.assert_array_equal(ours.get(index)[0], images[index])
  assert ours.locate(4).startswith("record 0 of")


class Killed(BaseException):
  pass


def _killed_at(monkeypatch, count):
  """Ends a pass at one of its writes; returns whether it came to that."""
  replace, left = os.replace, [count]

  def dying(*arguments):
    left[0] -= 1
    if left[0] < 0:
      raise Killed
    replace(*arguments)

  monkeypatch.setattr(os, "replace", dying)
  return lambda: left[0] < 0


def test_a_pass_that_was_cut_off_goes_on(tmp_path, monkeypatch):
  """At each of its writes in turn; the bytes come out the same."""
  source = data.open_source(_folder(tmp_path / "pictures", ("train",)))
  options = dict(side=64, shard=2)
  straight = tmp_path / "straight"
  preparing.prepare(source, str(straight), **options)
  assert prepared.split_names(str(tmp_path)) == ("straight",)
  for count in range(12):
    folder = str(tmp_path / f"cut-{count}")
    with monkeypatch.context() as patch:
      cut = _killed_at(patch, count)
      try:
        preparing.prepare(source, folder, **options)
      except Killed:
        # What is not complete cannot be opened.
        with pytest.raises(UserError, match="unfinished"):
          prepared.open_prepared(str(tmp_path), f"cut-{count}")
    assert cut() == (count < 10)
    told = []
    preparing.prepare(source, folder, **options, done=told.append)
    assert sum(told) == 6
    assert _bytes(folder) == _bytes(straight)


def test_corrupt_pictures_are_named_and_left_out(tmp_path, capsys):
  source = _folder(tmp_path / "pictures", ("train",))
  bad = tmp_path / "pictures" / "train" / "a" / "002.jpg"
  bad.write_bytes(bad.read_bytes()[:300])
  out = str(tmp_path / "out")
  with pytest.raises(UserError, match=r"unreadable picture .*a/002\.jpg: "):
    prepare.main([source, out, "--on_error=stop"])
  assert prepare.main([source, out]) == 0
  said = capsys.readouterr().out
  assert "5 pictures, 0." in said and " MB;" in said
  ours = data.open_source(f"prepared:{out}")
  assert ours.labels.tolist() == [0, 0, 1, 1, 1]
  with open(os.path.join(out, "train", "manifest.json")) as file:
    manifest = json.load(file)
  assert [each.split(": ")[0] for each in manifest["left_out"]] == [str(bad)]


def test_a_complete_set_is_checked_to_the_byte(tmp_path, capsys):
  source, out = _folder(tmp_path / "pictures", ("train",)), tmp_path / "out"
  prepare.main([source, str(out)])
  assert "pictures/s" in capsys.readouterr().err
  prepare.main([source, str(out)])
  told = capsys.readouterr().err
  assert "checking every byte" in told and "pictures/s" not in told
  path = out / "train" / "pictures-00000.array_record"
  changed = bytearray(path.read_bytes())
  changed[200] ^= 1
  path.write_bytes(bytes(changed))
  with pytest.raises(UserError, match="is not what was written"):
    prepare.main([source, str(out)])


def test_damage_is_told(tmp_path, monkeypatch):
  source, out = _folder(tmp_path / "pictures", ("train",)), tmp_path / "out"
  prepare.main([source, str(out)])
  (out / "train" / "labels.npy").write_bytes(b"")
  with pytest.raises(UserError, match="prepare it again"):
    data.open_source(f"prepared:{out}")
  (out / "train" / "manifest.json").write_text('{"format": 9}')
  with pytest.raises(UserError, match="format 9 and this version reads 1"):
    data.open_source(f"prepared:{out}")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["folder:/nope", "OUT"], "does not exist"),
    (["SOURCE", "OUT", "--on_error=x"], "unknown --on_error 'x'"),
    (["SOURCE", "OUT", "--side=8"], "--side=8 must be at least 32"),
    (["SOURCE", "OUT", "--splits=test"], "unknown split"),
    (["SOURCE", "FULL"], "holds other files; give an empty folder"),
    (["SOURCE", "FILE"], "cannot be written"),
  ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
  (tmp_path / "full" / "train").mkdir(parents=True)
  (tmp_path / "full" / "train" / "x").touch()
  (tmp_path / "file").touch()
  names = {
    "SOURCE": _folder(tmp_path / "pictures", ("train",)),
    "OUT": str(tmp_path / "out"),
    "FULL": str(tmp_path / "full"),
    "FILE": str(tmp_path / "file"),
  }
  with pytest.raises(UserError, match=message) as caught:
    prepare.main([names.get(each, each) for each in arguments])
  assert "\n" not in str(caught.value)


def test_a_second_process_is_told_who_fills_the_folder(tmp_path):
  out = tmp_path / "out"
  out.mkdir()
  with lock.held(str(out), "filled", holder=prepare.HOLDER):
    with pytest.raises(UserError, match=rf"{os.getpid()} .*another OUT"):
      prepare.main(["bundled:earth", str(out)])
  assert not (out / "train").exists()


def test_its_mark_needs_no_picture_and_changes_with_one(sets, tmp_path):
  def mark(name):
    source = data.open_source(name)
    source.picture = None  # Would fail.
    return content.digest(source)

  assert mark(sets[1]) == mark(sets[1])
  source = _folder(tmp_path / "pictures")
  jpeg_corpus.picture(30, 30, 77).save(tmp_path / "pictures/train/a/000.jpg")
  assert prepare.main([source, str(tmp_path / "out"), "--side=64"]) == 0
  assert mark(f"prepared:{tmp_path}/out") != mark(sets[1])


def test_another_set_in_the_folder_is_refused(tmp_path):
  source, out = _folder(tmp_path / "pictures", ("train",)), tmp_path / "out"
  prepare.main([source, str(out)])
  with pytest.raises(UserError, match="side 512 where this one has 64"):
    prepare.main([source, str(out), "--side=64"])


@pytest.mark.parametrize("path", ["", "/train"])
def test_no_prepared_set(tmp_path, path):
  (tmp_path / "train").mkdir()
  with pytest.raises(UserError, match="unfinished" if not path else "holds no"):
    data.open_source(f"prepared:{tmp_path}{path}")


@pytest.mark.slow
def test_killed_at_20_moments_it_ends_with_the_same_bytes(tmp_path):
  source = _folder(tmp_path / "pictures", ("train",), count=1500)
  root = os.path.dirname(os.path.dirname(cassle_jax.__file__))
  code = (
    "import sys; from cassle_jax.data import preparing; from cassle_jax import"
    " data; preparing.prepare(data.open_source(sys.argv[1]), sys.argv[2],"
    " side=64, shard=64, done=lambda n: print(n, flush=True))"
  )

  def start(folder):
    return subprocess.Popen(
      [sys.executable, "-c", code, source, str(folder)],
      env={**os.environ, "PYTHONPATH": root},
      stdout=subprocess.PIPE,
    )

  straight, killed = tmp_path / "straight", tmp_path / "killed"
  straight_run = start(straight)
  straight_run.communicate()
  assert straight_run.returncode == 0
  generator = np.random.default_rng(0)
  kills = 0
  while kills < 20:
    run = start(killed)
    # So many lines later; each start does some new pictures, or none.
    for _ in range(generator.integers(1, 300)):
      if not run.stdout.readline():
        break
    run.send_signal(signal.SIGKILL)
    run.communicate()
    kills += 1
    if run.returncode == 0 or (killed / "manifest.json").exists():
      assert _bytes(killed) == _bytes(straight)
      for path in killed.iterdir():
        path.unlink()
  last = start(killed)
  last.communicate()
  assert last.returncode == 0
  assert _bytes(killed) == _bytes(straight)
