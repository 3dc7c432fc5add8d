"""Sets whose owners list their pictures, in text or MATLAB files.

Each reader takes the set's folder and a part and returns a `ListSource` in the
order of the owner's list. SciPy, which JAX installs, reads MATLAB's files.
"""

import os

import numpy as np

from cassle_jax.data.downstream.listed import ListSource, read_lines
from cassle_jax.data.folder import subfolders
from cassle_jax.errors import UserError


def food101(folder: str, part: str) -> ListSource:
  """Food-101 (Bossard et al., 2014): meta/{train,test}.txt, classes.txt."""
  classes = read_lines(os.path.join(folder, "meta", "classes.txt"))
  names = read_lines(os.path.join(folder, "meta", f"{part}.txt"))
  return _by_folder(
    os.path.join(folder, "images"), [f"{each}.jpg" for each in names], classes
  )


def mit67(folder: str, part: str) -> ListSource:
  """MIT indoor scenes (Quattoni & Torralba, 2009)."""
  file = {"train": "TrainImages.txt", "test": "TestImages.txt"}[part]
  root = os.path.join(folder, "Images")
  return _by_folder(
    root, read_lines(os.path.join(folder, file)), subfolders(root)
  )


def dtd(folder: str, part: str) -> ListSource:
  """Describable textures (Cimpoi et al., 2014), the first of ten partitions."""
  root = os.path.join(folder, "images")
  names = read_lines(os.path.join(folder, "labels", f"{part}1.txt"))
  return _by_folder(root, names, subfolders(root))


def sun397(folder: str, part: str) -> ListSource:
  """SUN397 (Xiao et al., 2010), the first of ten partitions.

  A label is the line in ClassName.txt, such as "/a/apartment_building/outdoor".
  """
  file = {"train": "Training_01.txt", "test": "Testing_01.txt"}[part]
  classes = read_lines(os.path.join(folder, "ClassName.txt"))
  names = read_lines(os.path.join(folder, file))
  return _by_folder(
    folder,
    [each.removeprefix("/") for each in names],
    [each.removeprefix("/") for each in classes],
  )


def pets(folder: str, part: str) -> ListSource:
  """Oxford-IIIT pets (Parkhi et al., 2012); "train" is the owners' trainval.

  A line is "Abyssinian_100 1 1 1": name, breed from 1, species, breed within
  the species.
  """
  file = {"train": "trainval.txt", "test": "test.txt"}[part]
  paths, labels, names = [], [], {}
  for line in read_lines(os.path.join(folder, "annotations", file)):
    name, breed = line.split()[:2]
    paths.append(f"images/{name}.jpg")
    labels.append(int(breed) - 1)
    names[int(breed) - 1] = name.rpartition("_")[0]
  return ListSource(folder, paths, labels, [names[i] for i in sorted(names)])


def aircraft(folder: str, part: str) -> ListSource:
  """FGVC-Aircraft (Maji et al., 2013), its 100 variants.

  The pictures keep the banner of 20 pixels that names their photographer, as
  in the published numbers.
  """
  data = os.path.join(folder, "data")
  classes = read_lines(os.path.join(data, "variants.txt"))
  numbers = {name: label for label, name in enumerate(classes)}
  paths, labels = [], []
  for line in read_lines(os.path.join(data, f"images_variant_{part}.txt")):
    image, _, variant = line.partition(" ")
    paths.append(f"images/{image}.jpg")
    labels.append(numbers[variant])
  return ListSource(data, paths, labels, classes)


def cub200(folder: str, part: str) -> ListSource:
  """Caltech-UCSD birds 200-2011 (Wah et al., 2011).

  Three files of "NUMBER VALUE" lines are joined by number.
  """

  def table(file: str) -> dict[str, str]:
    lines = read_lines(os.path.join(folder, file))
    return dict(line.split(maxsplit=1) for line in lines)

  images = table("images.txt")
  classes = table("image_class_labels.txt")
  training = table("train_test_split.txt")
  names = table("classes.txt")
  wanted = "1" if part == "train" else "0"
  chosen = [each for each in images if training[each] == wanted]
  return ListSource(
    os.path.join(folder, "images"),
    [images[each] for each in chosen],
    [int(classes[each]) - 1 for each in chosen],
    list(names.values()),
  )


def _by_folder(root: str, paths: list[str], classes: list[str]) -> ListSource:
  """A picture's class is the folder that it lies in."""
  numbers = {name: label for label, name in enumerate(classes)}
  labels = [numbers[each.rpartition("/")[0]] for each in paths]
  return ListSource(root, paths, labels, classes)


def flowers102(folder: str, part: str) -> ListSource:
  """Oxford flowers (Nilsback & Zisserman, 2008).

  The owners' small parts: trnid and valid have ten pictures a class, tstid the
  rest. They publish no class names; a name is the class's number from 1.
  """
  labels = _variable(os.path.join(folder, "imagelabels.mat"), "labels")
  key = {"train": "trnid", "val": "valid", "test": "tstid"}[part]
  numbers = _variable(os.path.join(folder, "setid.mat"), key)
  labels = np.atleast_1d(labels).astype(np.int64)
  numbers = np.atleast_1d(numbers).astype(np.int64)
  return ListSource(
    folder,
    [f"jpg/image_{each:05d}.jpg" for each in numbers],
    labels[numbers - 1] - 1,
    [str(each) for each in range(1, int(labels.max()) + 1)],
  )


def cars(folder: str, part: str) -> ListSource:
  """Stanford cars (Krause et al., 2013).

  The labels of the test pictures are not in the owners' devkit but in
  cars_test_annos_withlabels.mat.
  """
  file = {
    "train": "devkit/cars_train_annos.mat",
    "test": "cars_test_annos_withlabels.mat",
  }[part]
  annotations = _variable(os.path.join(folder, file), "annotations")
  if "class" not in annotations.dtype.names:
    raise UserError(
      f"{os.path.join(folder, file)} has no classes; the devkit's "
      "cars_test_annos.mat is not enough, download "
      "cars_test_annos_withlabels.mat."
    )
  annotations = np.atleast_1d(annotations)
  names = _variable(os.path.join(folder, "devkit/cars_meta.mat"), "class_names")
  return ListSource(
    folder,
    [f"cars_{part}/{each}" for each in annotations["fname"]],
    [int(each) - 1 for each in annotations["class"]],
    [str(each) for each in np.atleast_1d(names)],
  )


def _variable(path: str, name: str) -> np.ndarray:
  """One variable of a .mat file, its dimensions of size 1 dropped.

  Raises:
    UserError: the file is damaged or lacks the variable.
  """
  from scipy import io

  # What the reader raises depends on where a damaged file goes wrong.
  try:
    return io.loadmat(path, squeeze_me=True, variable_names=[name])[name]
  except MemoryError:
    raise
  except Exception as error:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise UserError(
      f"{path} cannot be read ({text}); download it again."
    ) from error
