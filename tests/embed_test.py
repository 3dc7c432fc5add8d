"""Features of pictures: what is in the file, after whatever kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import small_run
from PIL import Image

from cassle_jax import embed
from cassle_jax.embed import command, tables
from cassle_jax.embed import pictures as pictures_lib
from cassle_jax.embed.parts import Part, Parts
from cassle_jax.errors import UserError
from cassle_jax.training import trained

NAMES = ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png"]
NAMES += ["val/ant/4.png", "val/dog/5.png", "val/dog/6.png", "val/dog/7.png"]


def picture(place):
  draw = np.random.default_rng(place)
  return draw.integers(0, 256, (18 + place, 21, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
  """A run and a folder of pictures, one of them damaged."""
  root = tmp_path_factory.mktemp("embed")
  small_run.make(root / "run")
  for place, name in enumerate(NAMES):
    path = root / "set" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(place)).save(path)
  (root / "set" / NAMES[4]).write_bytes(b"no picture")
  return root


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
  monkeypatch.setattr(command, "_PART", 2)


def flags(there, out, *more):
  return [
    f"--workdir={there}/run",
    f"--source=folder:{there}/set",
    f"--out={out}",
    "--split=all",
    "--batch_size=8",
    *more,
  ]


def arrays(path):
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def test_rows_are_the_readable_pictures_of_all_splits(there, tmp_path, capsys):
  out = tmp_path / "features.npz"
  assert embed.main(flags(there, out)) == 0
  assert "6 of 7 pictures" in capsys.readouterr().err
  found = arrays(out)
  good = [0, 1, 2, 3, 5, 6]
  assert found["index"].tolist() == good
  assert found["path"].tolist() == [f"{there}/set/{NAMES[i]}" for i in good]
  assert found["split"].tolist() == ["train"] * 3 + ["val"] * 3
  # The splits name other classes: all of them, in alphabetical order.
  assert found["class_names"].tolist() == ["ant", "cat", "dog"]
  assert found["label"].tolist() == [1, 1, 2, 0, 2, 2]
  about = json.loads(str(found["about"]))
  assert about["step"] == 3 and about["image_size"] == 16
  assert about["count"] == 7 and about["backbone"] == "conv2"
  run = trained.open_run(f"{there}/run")
  images = [
    Image.fromarray(picture(i)).resize(size, Image.Resampling.BICUBIC)
    # The short side to 18 px, then the middle 16 x 16, as torchvision rounds.
    for i, size in zip(good, SIZES, strict=True)
  ]
  crops = [np.asarray(x.crop(box(x))) for x in images]
  expected = trained.extractor(run)(np.stack(crops))
  np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
  assert not os.path.exists(f"{out}.parts")


# (width, height) of 21 x 18 .. 24 pixels with a short side of 18.
SIZES = [(21, 18), (19, 18), (18, 18), (18, 18), (18, 19), (18, 20)]


def box(image):
  left, top = (round((side - 16) / 2) for side in image.size)
  return left, top, left + 16, top + 16


@pytest.mark.parametrize("ending", tables.ENDINGS)
def test_interrupted_anywhere_it_writes_the_same_bytes(
  there, tmp_path, monkeypatch, ending
):
  if ending == ".parquet":
    pytest.importorskip("pyarrow")
  whole = tmp_path / f"whole{ending}"
  embed.main(flags(there, whole))
  out = tmp_path / f"out{ending}"
  write, calls = Parts.write, []

  class Killed(BaseException):
    pass

  def dies(self, number, part):
    if len(calls) % 2:
      calls.append("killed")
      raise Killed
    calls.append(number)
    write(self, number, part)

  monkeypatch.setattr(Parts, "write", dies)
  for _ in range(3):
    with pytest.raises(Killed):
      embed.main(flags(there, out))
    assert not out.exists()
  # One part of four is left; nothing that is there is computed again.
  embed.main(flags(there, out))
  assert [x for x in calls if x != "killed"] == [0, 1, 2, 3]
  assert out.read_bytes() == whole.read_bytes()


def test_killed_amid_the_table_or_the_cleaning(there, tmp_path, monkeypatch):
  whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"
  embed.main(flags(there, whole))
  for name, place in ((tables, "write"), (Parts, "remove")):
    with monkeypatch.context() as patch:
      patch.setattr(name, place, lambda *_: 1 / 0)
      with pytest.raises(ZeroDivisionError):
        embed.main(flags(there, out))
    # Half a table, or all of it, beside the parts.
    assert os.path.exists(f"{out}.parts")
    assert out.exists() == (place == "remove")
  embed.main(flags(there, out))
  assert out.read_bytes() == whole.read_bytes()
  assert sorted(os.listdir(tmp_path)) == ["out.npz", "whole.npz"]


def test_a_part_that_a_disk_damaged_is_computed_again(tmp_path):
  part = Part(np.arange(2), np.zeros(2, np.int32), np.ones((2, 3), np.float32))
  with Parts(str(tmp_path / "p"), {"step": 1}, total=4, size=2) as parts:
    assert parts.missing == [0, 1]
    parts.write(0, part)
    parts.write(1, part)
  path = tmp_path / "p" / "000001.npz"
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)
  with Parts(str(tmp_path / "p"), {"step": 1}, total=4, size=2) as parts:
    assert parts.missing == [1]
    with pytest.raises(UserError, match="another process"):
      Parts(str(tmp_path / "p"), {"step": 1}, total=4, size=2)
  with pytest.raises(UserError, match="another job: step 1 there, 2 here"):
    Parts(str(tmp_path / "p"), {"step": 2}, total=4, size=2)
  # Parts of nobody knows what are not used.
  os.unlink(tmp_path / "p" / "job.json")
  with Parts(str(tmp_path / "p"), {"step": 2}, total=4, size=2) as parts:
    assert parts.missing == [0, 1]


def test_parquet_holds_the_same(there, tmp_path):
  parquet = pytest.importorskip("pyarrow.parquet")
  embed.main(flags(there, tmp_path / "a.npz"))
  embed.main(flags(there, tmp_path / "a.parquet"))
  found, table = arrays(tmp_path / "a.npz"), tmp_path / "a.parquet"
  rows = parquet.read_table(table).to_pylist()
  assert [row["path"] for row in rows] == found["path"].tolist()
  assert [row["label"] for row in rows] == found["label"].tolist()
  words = [found["class_names"][label] for label in found["label"]]
  assert [row["class"] for row in rows] == words
  features = np.array([row["features"] for row in rows], np.float32)
  np.testing.assert_array_equal(features, found["features"])
  assert tables.about(str(table)) == json.loads(str(found["about"]))
  chosen = np.array([0, 2, 5])
  for path in (str(table), str(tmp_path / "a.npz")):
    np.testing.assert_array_equal(tables.places(path), found["index"])
    np.testing.assert_array_equal(
      tables.take(path, chosen), found["features"][chosen]
    )


def test_a_file_of_something_else_is_kept(there, tmp_path, capsys):
  out = tmp_path / "a.npz"
  embed.main(flags(there, out))
  before = os.stat(out).st_mtime_ns
  assert embed.main(flags(there, out)) == 0
  assert "is there" in capsys.readouterr().err
  assert os.stat(out).st_mtime_ns == before
  other = flags(there, out, "--split=val")
  with pytest.raises(UserError, match="split 'train,val' there, 'val' here"):
    embed.main(other)
  assert embed.main([*other, "--again"]) == 0
  assert len(arrays(out)["index"]) == 3
  out.write_bytes(b"a letter to a friend")
  with pytest.raises(UserError, match="holds something else"):
    embed.main(other)


def test_pictures_without_labels(tmp_path):
  for place in range(2):
    Image.fromarray(picture(place)).save(tmp_path / f"{place}.png")
  found = pictures_lib.open_pictures(f"folder:{tmp_path}")
  assert found.class_names == () and not found.has_labels
  assert found.labeled_picture(1)[1] == found.label(1) == -1
  mark = found.fingerprint()
  Image.fromarray(picture(2)).save(tmp_path / "2.png")
  assert pictures_lib.open_pictures(f"folder:{tmp_path}").fingerprint() != mark


@pytest.mark.parametrize(
  "words, message",
  [
    (["--out=a.csv"], "must end in .npz or .parquet"),
    (["--out=/nope/a.npz"], "no folder '/nope'"),
    (["--split=train,"], "each once"),
    (["--split=test"], "unknown split"),
    (["--source=folder:/nope"], "does not exist"),
    (["--workdir=/nope"], "no run's folder"),
    (["--step=4"], "no checkpoint of step 4"),
    (["--batch_size=0"], "--batch_size=0 must be at least 1"),
    (["--precision=float16"], "unknown --precision 'float16'"),
    (["--plot=map.svg"], "must end in .html or .png"),
    (["--plot", "--plot_method=tsne"], "unknown --plot_method 'tsne'"),
    (["--config.seed=3"], "leave it out"),
  ],
)
def test_mistakes_are_one_line(there, tmp_path, words, message):
  with pytest.raises(UserError, match=message) as error:
    embed.main(flags(there, tmp_path / "a.npz", *words))
  assert "\n" not in str(error.value)
  assert not os.listdir(tmp_path)


def test_without_pyarrow_it_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(UserError, match="pip install pyarrow"):
    tables.check_path("a.parquet")


def test_nothing_readable_is_an_error(there, tmp_path):
  (tmp_path / "set").mkdir()
  (tmp_path / "set" / "a.png").write_bytes(b"no")
  with pytest.raises(UserError, match="no picture of folder:.* can be read"):
    embed.main(
      [
        f"--workdir={there}/run",
        f"--source=folder:{tmp_path}/set",
        f"--out={tmp_path}/a.npz",
      ]
    )
  assert not (tmp_path / "a.npz").exists()


@pytest.mark.slow
def test_killed_at_random_moments_it_writes_the_same_bytes(there, tmp_path):
  """SIGKILL at most a second after the next part of each start."""
  script = (
    "import sys; from cassle_jax.embed import command; command._PART = 64;"
    " command.main(sys.argv[1:])"
  )
  draw = np.random.default_rng(0)
  words = [
    f"--workdir={there}/run",
    "--source=bundled:earth",
    "--split=all",
    "--batch_size=64",
  ]

  def start(out):
    line = [sys.executable, "-c", script, *words, f"--out={out}"]
    return subprocess.Popen(line, stderr=subprocess.DEVNULL)

  whole, out = tmp_path / "whole.npz", tmp_path / "out.npz"

  def parts():
    return len(list(tmp_path.glob("out.npz.parts/*.npz")))

  assert start(whole).wait() == 0
  killed = 0
  while not out.exists():
    before = parts()
    process = start(out)
    while process.poll() is None and parts() <= before:
      time.sleep(0.02)
    time.sleep(draw.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    killed += process.wait() == -signal.SIGKILL
  assert killed
  assert start(out).wait() == 0
  assert out.read_bytes() == whole.read_bytes()
  assert zipfile.ZipFile(out).testzip() is None
  assert not os.path.exists(f"{out}.parts")
  shutil.rmtree(tmp_path)
