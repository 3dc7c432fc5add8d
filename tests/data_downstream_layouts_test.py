"""Each downstream set, written in its owners' layout and read back."""

import numpy as np
import pytest
from PIL import Image
from scipy import io as scipy_io

from cassle_jax.data import CorruptImage, downstream
from cassle_jax.errors import UserError


def _pixels(place, size=(9, 7)):
  generator = np.random.default_rng(place)
  return generator.integers(0, 256, (*size, 3), dtype=np.uint8)


def _picture(path, place):
  """One picture; grey, CMYK and misnamed PNG files take turns."""
  path.parent.mkdir(parents=True, exist_ok=True)
  image = Image.fromarray(_pixels(place))
  mode, form = [
    ("RGB", "JPEG"),
    ("L", "JPEG"),
    ("CMYK", "JPEG"),
    ("P", "PNG"),
  ][place % 4]
  image.convert(mode).save(path, form)


def _text(path, lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(lines) + "\n")


# A writer makes a miniature set in `root` and returns, for each part in the
# order of `open_set`, its pictures as (path, label), and the class names.


def _food101(root):
  folder = root / "food-101"
  classes = ["apple_pie", "baklava", "waffles"]
  parts = {"train": [], "test": []}
  for label, name in enumerate(classes):
    for part, numbers in (("train", (30, 4)), ("test", (5,))):
      for number in numbers:
        parts[part].append((f"images/{name}/{number}.jpg", label))
  for part, rows in parts.items():
    names = [path[len("images/") : -len(".jpg")] for path, _ in rows]
    _text(folder / "meta" / f"{part}.txt", names)
  _text(folder / "meta" / "classes.txt", classes)
  return folder, parts, classes


def _mit67(root):
  folder = root / "mit67"
  classes = ["airport_inside", "kitchen"]
  parts = {
    "train": [("Images/kitchen/b.jpg", 1), ("Images/airport_inside/c.jpg", 0)],
    "test": [("Images/kitchen/a.jpg", 1), ("Images/airport_inside/a.jpg", 0)],
  }
  for part, file in (("train", "TrainImages"), ("test", "TestImages")):
    names = [path.removeprefix("Images/") for path, _ in parts[part]]
    _text(folder / f"{file}.txt", names)
  return folder, parts, classes


def _pets(root):
  folder = root / "oxford-iiit-pet"
  # The owners' order of breeds is not that of plain sorting.
  parts = {
    "train": [
      ("images/Abyssinian_2.jpg", 0),
      ("images/american_bulldog_100.jpg", 1),
      ("images/Bengal_7.jpg", 2),
    ],
    "test": [
      ("images/american_bulldog_3.jpg", 1),
      ("images/Abyssinian_1.jpg", 0),
      ("images/Bengal_70.jpg", 2),
    ],
  }
  for part, file in (("train", "trainval"), ("test", "test")):
    lines = [
      f"{path[len('images/') : -len('.jpg')]} {label + 1} 1 {label + 5}"
      for path, label in parts[part]
    ]
    _text(folder / "annotations" / f"{file}.txt", lines)
  return folder, parts, ["Abyssinian", "american_bulldog", "Bengal"]


def _flowers102(root):
  folder = root / "flowers-102"
  (folder / "jpg").mkdir(parents=True)
  labels = np.array([[3, 1, 2, 1, 2, 3, 1]], np.uint8)
  numbers = {"trnid": [6, 2, 3], "valid": [4], "tstid": [1, 5, 7]}
  scipy_io.savemat(folder / "imagelabels.mat", {"labels": labels})
  scipy_io.savemat(
    folder / "setid.mat",
    {key: np.array([each], np.uint16) for key, each in numbers.items()},
  )
  parts = {
    part: [
      (f"jpg/image_{each:05d}.jpg", labels[0, each - 1] - 1)
      for each in numbers[key]
    ]
    for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
  }
  return folder, parts, ["1", "2", "3"]


def _caltech101(root):
  folder = root / "caltech-101" / "101_ObjectCategories"
  classes = ["Faces", "Faces_easy", "Motorbikes", "accordion"]
  rows = [
    (f"{name}/image_{i:04d}.jpg", label)
    for label, name in enumerate(classes)
    for i in (1, 2)
  ]
  _picture(folder / "BACKGROUND_Google" / "image_0001.jpg", 0)
  return folder, {"all": rows}, classes


def _struct(rows):
  """A struct array as MATLAB saves it, from dictionaries."""
  array = np.empty((1, len(rows)), [(key, object) for key in rows[0]])
  for place, row in enumerate(rows):
    array[0, place] = tuple(row.values())
  return array


def _cars(root):
  folder = root / "stanford_cars"
  (folder / "devkit").mkdir(parents=True)
  parts = {
    "train": [("cars_train/00001.jpg", 1), ("cars_train/00002.jpg", 0)],
    "test": [
      ("cars_test/00001.jpg", 0),
      ("cars_test/00002.jpg", 1),
      ("cars_test/00003.jpg", 1),
    ],
  }
  for part, file in (
    ("train", "devkit/cars_train_annos.mat"),
    ("test", "cars_test_annos_withlabels.mat"),
  ):
    rows = [
      {
        "bbox_x1": np.uint16(1),
        "bbox_y1": np.uint16(2),
        "bbox_x2": np.uint16(5),
        "bbox_y2": np.uint16(6),
        "class": np.uint8(label + 1),
        "fname": path.rpartition("/")[2],
      }
      for path, label in parts[part]
    ]
    scipy_io.savemat(folder / file, {"annotations": _struct(rows)})
  classes = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
  names = np.array([classes], object)
  scipy_io.savemat(folder / "devkit/cars_meta.mat", {"class_names": names})
  return folder, parts, classes


def _aircraft(root):
  folder = root / "fgvc-aircraft-2013b"
  classes = ["707-320", "DC-10", "Model B200", "F/A-18"]
  parts = {
    part: [
      (f"data/images/{first + label:07d}.jpg", label) for label in (2, 0, 1, 3)
    ]
    for first, part in ((10, "train"), (20, "val"), (30, "test"))
  }
  for part, rows in parts.items():
    lines = [f"{path[-11:-4]} {classes[label]}" for path, label in rows]
    _text(folder / "data" / f"images_variant_{part}.txt", lines)
  _text(folder / "data" / "variants.txt", classes)
  return folder, parts, classes


def _dtd(root):
  folder = root / "dtd"
  classes = ["banded", "dotted"]
  parts = {
    part: [
      (f"images/{name}/{name}_{place}.jpg", label)
      for label, name in enumerate(classes)
    ]
    for place, part in enumerate(("train", "val", "test"))
  }
  for part, rows in parts.items():
    names = [path.removeprefix("images/") for path, _ in rows]
    _text(folder / "labels" / f"{part}1.txt", names)
    # The other partitions must not be taken.
    _text(folder / "labels" / f"{part}2.txt", names[:1])
  return folder, parts, classes


def _sun397(root):
  folder = root / "SUN397"
  # One class's folder may lie within another's.
  classes = ["/a/abbey", "/a/apartment_building/outdoor", "/b/badlands"]
  parts = {
    part: [
      (f"{name[1:]}/sun_{place}{label}.jpg", label)
      for label, name in reversed(list(enumerate(classes)))
    ]
    for place, part in enumerate(("train", "test"))
  }
  _text(folder / "ClassName.txt", classes)
  for part, file in (("train", "Training_01"), ("test", "Testing_01")):
    _text(folder / f"{file}.txt", ["/" + path for path, _ in parts[part]])
  return folder, parts, [each[1:] for each in classes]


def _cub200(root):
  folder = root / "CUB_200_2011"
  classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
  parts, images, labels, training = {"train": [], "test": []}, [], [], []
  for number, (label, train) in enumerate(
    [(0, 1), (0, 0), (1, 0), (1, 1), (1, 1)], start=1
  ):
    path = f"{classes[label]}/Bird_{number:04d}.jpg"
    images.append(f"{number} {path}")
    labels.append(f"{number} {label + 1}")
    training.append(f"{number} {train}")
    parts["train" if train else "test"].append((f"images/{path}", label))
  _text(folder / "images.txt", images)
  _text(folder / "image_class_labels.txt", labels)
  _text(folder / "train_test_split.txt", training)
  _text(folder / "classes.txt", [f"{i + 1} {c}" for i, c in enumerate(classes)])
  return folder, parts, classes


def _imagenet(root, name="imagenet", classes=("n01440764", "n01443537")):
  folder = root / name
  parts = {
    part: [
      (f"{place}/{wnid}/{wnid}_{i}.JPEG", label)
      for label, wnid in enumerate(classes)
      for i in range(count)
    ]
    for part, place, count in (("train", "train", 2), ("test", "val", 1))
  }
  return folder, parts, list(classes)


def _imagenet100(root):
  classes = ("n02869837", "n01749939")
  folder, parts, names = _imagenet(root, "imagenet100", classes)
  _text(folder / "imagenet100.txt", classes)
  # Classes that are not in the list are left out.
  _picture(folder / "train" / "n01440764" / "a.JPEG", 0)
  return folder, parts, names


def _plant_disease(root):
  folder = root / "Plant_leave_diseases_dataset_without_augmentation"
  classes = ["Apple___Apple_scab", "Corn___healthy"]
  rows = [
    (f"{name}/image ({i}).JPG", label)
    for label, name in enumerate(classes)
    for i in (1, 10, 2)
  ]
  _picture(folder / "Background_without_leaves" / "image (1).jpg", 0)
  _picture(folder / classes[0] / "odd.png", 0)
  return folder, {"all": rows}, classes


WRITERS = {
  "food101": _food101,
  "mit67": _mit67,
  "pets": _pets,
  "flowers102": _flowers102,
  "caltech101": _caltech101,
  "cars": _cars,
  "aircraft": _aircraft,
  "dtd": _dtd,
  "sun397": _sun397,
  "cub200": _cub200,
  "imagenet": _imagenet,
  "imagenet100": _imagenet100,
  "plant_disease": _plant_disease,
}


def _write(name, root):
  folder, parts, classes = WRITERS[name](root)
  paths = [path for rows in parts.values() for path, _ in rows]
  for place, path in enumerate(paths):
    _picture(folder / path, place)
  return folder, parts, classes


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout_reads_back(name, tmp_path):
  folder, parts, classes = _write(name, tmp_path)
  counts = {part: len(rows) for part, rows in parts.items()}
  assert tuple(counts) == tuple(downstream.DATASETS[name].counts)
  assert name in downstream.available(tmp_path)
  whole = downstream.open_set(name, tmp_path, counts=counts)
  rows = [row for each in parts.values() for row in each]
  assert len(whole) == len(rows)
  assert whole.class_names == tuple(classes)
  assert whole.labels.dtype == np.int32
  np.testing.assert_array_equal(whole.labels, [label for _, label in rows])
  for place, (path, label) in enumerate(rows):
    assert whole.locate(place) == str(folder / path)
    with Image.open(folder / path) as image:
      reference = np.asarray(image.convert("RGB"))
    image, found = whole.get(place)
    np.testing.assert_array_equal(image, reference)
    assert image.dtype == np.uint8 and found == label
  for part, expected in parts.items():
    one = downstream.open_set(name, tmp_path, part, counts=counts)
    found = [one.locate(place) for place in range(len(one))]
    assert found == [str(folder / path) for path, _ in expected]
    np.testing.assert_array_equal(one.labels, [each for _, each in expected])


@pytest.mark.parametrize("name", WRITERS)
def test_a_lost_picture_is_counted(name, tmp_path):
  folder, parts, _ = _write(name, tmp_path)
  counts = {part: len(rows) for part, rows in parts.items()}
  part, rows = list(parts.items())[-1]
  (folder / rows[-1][0]).unlink()
  with pytest.raises(UserError) as error:
    downstream.open_set(name, tmp_path, counts=counts)
  text = str(error.value)
  lost = f"{part} has {len(rows) - 1} pictures instead of {len(rows)}"
  assert lost in text and downstream.DATASETS[name].owner in text
  assert "\n" not in text


@pytest.mark.parametrize("name", ("flowers102", "cars"))
def test_damaged_matlab_files(name, tmp_path):
  folder, parts, _ = _write(name, tmp_path)
  counts = {part: len(rows) for part, rows in parts.items()}
  file = {
    "flowers102": "setid.mat",
    "cars": "cars_test_annos_withlabels.mat",
  }[name]
  whole = (folder / file).read_bytes()
  for damaged in (b"", b"no such format", whole[:200]):
    (folder / file).write_bytes(damaged)
    with pytest.raises(UserError, match=f"{file} cannot be read .*again"):
      downstream.open_set(name, tmp_path, counts=counts)


def test_cars_test_file_without_classes(tmp_path):
  folder, parts, _ = _write("cars", tmp_path)
  rows = [{"bbox_x1": np.uint8(1), "fname": "00001.jpg"}] * 3
  scipy_io.savemat(
    folder / "cars_test_annos_withlabels.mat", {"annotations": _struct(rows)}
  )
  with pytest.raises(UserError, match="has no classes; .*_withlabels.mat"):
    downstream.open_set("cars", tmp_path, "test", counts={})


def test_damaged_lists(tmp_path):
  folder, *_ = _write("dtd", tmp_path)
  (folder / "labels" / "test1.txt").write_text("no_class/a.jpg\n")
  with pytest.raises(UserError, match="dtd in .* cannot be read .*no_class"):
    downstream.open_set("dtd", tmp_path, "test", counts={})
  (folder / "labels" / "test1.txt").write_bytes(b"\xff\xfe\x00")
  with pytest.raises(UserError, match="is no text file"):
    downstream.open_set("dtd", tmp_path, "test", counts={})


@pytest.mark.parametrize("name", WRITERS)
def test_a_corrupt_picture_is_left_out(name, tmp_path):
  folder, parts, _ = _write(name, tmp_path)
  rows = [row for each in parts.values() for row in each]
  path = folder / rows[0][0]
  path.write_bytes(path.read_bytes()[:40])
  opened = downstream.open_set(name, tmp_path, counts={})
  with pytest.raises(CorruptImage):
    opened.get(0)
  found = list(downstream.rows(opened, 4, 3))
  assert {len(places) for _, places in found[:-1]} <= {3}
  places = np.concatenate([places for _, places in found])
  np.testing.assert_array_equal(places, np.arange(1, len(rows)))
  found = list(downstream.batches(opened, 4, 3))
  labels = np.concatenate([labels for _, labels in found])
  np.testing.assert_array_equal(labels, [label for _, label in rows[1:]])
