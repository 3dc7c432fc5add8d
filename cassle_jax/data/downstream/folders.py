"""Sets that are trees of class folders, and the bundled tiles."""

import os

from cassle_jax.data import folder as class_folders
from cassle_jax.data import sources
from cassle_jax.data.downstream.listed import ListSource
from cassle_jax.data.source import Source

_IMAGENET_PARTS = {"train": "train", "test": "val"}


def imagenet(folder: str, part: str) -> class_folders.FolderSource:
  """ImageNet-1k (Russakovsky et al., 2015): {train,val}/WNID/*.JPEG.

  The validation pictures, which every paper reports, are our part "test".
  """
  return class_folders.FolderSource(os.path.join(folder, _IMAGENET_PARTS[part]))


def imagenet100(folder: str, part: str) -> class_folders.FolderSource:
  """ImageNet-100 (Tian et al., 2020): the classes of imagenet100.txt.

  A label is the class's line in that file, which is not sorted.
  """
  return class_folders.FolderSource(
    os.path.join(folder, _IMAGENET_PARTS[part]),
    classes=imagenet100_classes(folder),
  )


def imagenet100_classes(folder: str) -> list[str]:
  """The classes of ImageNet-100 in label order, from imagenet100.txt."""
  return class_folders.read_class_list(os.path.join(folder, "imagenet100.txt"))


def caltech101(folder: str, part: str) -> class_folders.FolderSource:
  """Caltech-101 (Fei-Fei et al., 2004) without its background class.

  Classes are sorted with capitals first (Faces, Faces_easy, Leopards, ...), as
  torchvision sorts them.
  """
  del part
  found = class_folders.subfolders(folder)
  names = [each for each in found if each != "BACKGROUND_Google"]
  return class_folders.FolderSource(folder, classes=names)


def plant_disease(folder: str, part: str) -> ListSource:
  """PlantVillage (Hughes & Salathe, 2015) without its background class.

  Only .jpg files are taken, as TFDS's plant_village takes them.
  """
  del part
  found = class_folders.subfolders(folder)
  names = [each for each in found if each != "Background_without_leaves"]
  paths, labels = [], []
  for label, name in enumerate(names):
    for file in sorted(os.listdir(os.path.join(folder, name))):
      if file.lower().endswith(".jpg"):
        paths.append(f"{name}/{file}")
        labels.append(label)
  return ListSource(folder, paths, labels, names)


def earth(folder: str, part: str) -> Source:
  """The satellite tiles that come with the package."""
  del folder
  return sources.open_source("bundled:earth", part)
