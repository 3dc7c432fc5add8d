"""Draws views with their omega, before a training run costs anything.

  python -m cassle_jax.preview --config=configs/quickstart.py --out=views.png
  python -m cassle_jax.preview --config=configs/mocov3_vit.py \\
      --config.data.source=folder:/data/photos --images=6 --draws=3

Each row is one picture of the config's source with the boxes that its views
were cut from, then the views; below each, what the projector would be told (or
all that happened, where it is told nothing). A field that was not applied is
printed pale.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cassle_jax import errors
from cassle_jax.config import cli

_INK = (28, 30, 34)
_PALE = (172, 176, 182)
_LABEL = (108, 114, 122)
_PAPER = (255, 255, 255)
_FRAMES = ((214, 72, 36), (30, 110, 200), (20, 140, 90), (150, 70, 180))
_MARGIN, _GAP, _LINE = 24, 16, 17
_TILE = 216


def text_of(field: str, value: np.ndarray) -> tuple[str, bool]:
  """Returns a field's value in words and whether the operation was applied.

  Args:
    field: a name in `omega.FIELDS`.
    value: `[size]`, that field of one view.
  """
  from cassle_jax.augment import operations

  return operations.fields()[field].in_words(value)


def draw(
  images: Sequence[np.ndarray],
  views: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]],
  fields: Sequence[str],
  *,
  title: str = "",
  names: Sequence[str] = (),
  ranges: Mapping[str, tuple[float, float]] = {},
) -> Image.Image:
  """Draws a grid: a row for each picture, a column for each view.

  Args:
    images: N pictures `[H, W, 3]` uint8, of any size.
    views: for each column the pixels `[N, h, w, 3]` uint8 and omega
      `{field: [N, size]}`; if there is "crop", the box is drawn on the picture.
    fields: fields to print below each view.
    title: a line on top.
    names: a word above each view's column.
    ranges: of the fields' numbers, for the legend; see `augment.field_ranges`.

  Returns:
    An RGB image.
  """
  font = ImageFont.load_default(13)
  bold = ImageFont.load_default(18)
  # Imported here, as below: --help and a mistyped flag need no jax.
  from cassle_jax.augment import operations

  known = operations.fields()
  legend = [
    f"{name}: {known[name].meaning}"
    + (", {:.3g} to {:.3g}".format(*ranges[name]) if name in ranges else "")
    for name in fields
    if known[name].kind != "binary"
  ]
  columns = 1 + len(views)
  height, width = views[0][0].shape[1:3]
  scale = _TILE / max(height, width)
  tile = (round(width * scale), round(height * scale))
  row = max(tile[1], _TILE) + 8 + _LINE * len(fields) + _GAP
  top = _MARGIN + (36 if title else 0) + (20 if names else 0)
  page = (
    2 * _MARGIN + columns * _TILE + (columns - 1) * _GAP,
    top + row * len(images) + _LINE * len(legend) + _MARGIN,
  )
  sheet = Image.new("RGB", page, _PAPER)
  pen = ImageDraw.Draw(sheet)
  if title:
    pen.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=bold)
  for column, name in enumerate(names):
    x = _MARGIN + (column + 1) * (_TILE + _GAP)
    color = _FRAMES[column % len(_FRAMES)]
    pen.text((x, top - 22), name, fill=color, font=font)

  for index, image in enumerate(images):
    y = top + index * row
    boxes = [
      (_box(omega, index), _FRAMES[column % len(_FRAMES)])
      for column, (_, omega) in enumerate(views)
      if "crop" in omega
    ]
    _paste_picture(sheet, pen, image, boxes, (_MARGIN, y))
    for column, (pixels, omega) in enumerate(views):
      x = _MARGIN + (column + 1) * (_TILE + _GAP)
      view = Image.fromarray(np.asarray(pixels[index]))
      sheet.paste(view.resize(tile, _filter(view.size, tile)), (x, y))
      frame = (x - 2, y - 2, x + tile[0] + 1, y + tile[1] + 1)
      pen.rectangle(frame, outline=_FRAMES[column % len(_FRAMES)], width=2)
      for line, field in enumerate(fields):
        text, applied = text_of(field, omega[field][index])
        baseline = y + max(tile[1], _TILE) + 8 + line * _LINE
        color = _LABEL if applied else _PALE
        pen.text((x, baseline), field, fill=color, font=font)
        color = _INK if applied else _PALE
        pen.text((x + 76, baseline), text, fill=color, font=font)

  for line, text in enumerate(legend):
    y = top + row * len(images) + line * _LINE
    pen.text((_MARGIN, y), text, fill=_LABEL, font=font)
  return sheet


def _filter(source, target):
  """Small views show their pixels; large ones are reduced smoothly."""
  grows = target[0] >= 2 * source[0]
  return Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS


def _box(omega, index):
  """Left, top, right, bottom of a view's box, relative to its picture."""
  from cassle_jax.augment.operations.crop import mirrored

  flip = omega["flip"][index] > 0.5 if "flip" in omega else False
  crop = mirrored(np.asarray(omega["crop"][index]), flip)
  y, x, tall, wide = np.asarray(crop, np.float64)
  return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2


def _paste_picture(sheet, pen, image, boxes, corner):
  """Puts a picture into its tile, its aspect kept, and the boxes over it."""
  picture = Image.fromarray(np.asarray(image))
  scale = _TILE / max(picture.size)
  size = tuple(max(round(side * scale), 1) for side in picture.size)
  picture = picture.resize(size, _filter(picture.size, size))
  x = corner[0] + (_TILE - size[0]) // 2
  y = corner[1] + (_TILE - size[1]) // 2
  sheet.paste(picture, (x, y))
  for (left, top, right, bottom), color in boxes:
    first = x + round(left * size[0]), y + round(top * size[1])
    last = x + round(right * size[0]) - 1, y + round(bottom * size[1]) - 1
    for inset, outline, width in ((0, _PAPER, 4), (1, color, 2)):
      start = [each + inset for each in first]
      # A box of a thin picture may be thinner than its frame.
      end = [max(a, b - inset) for a, b in zip(start, last, strict=True)]
      pen.rectangle((*start, *end), outline=outline, width=width)


def to_pixels(
  view: np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
  """Undoes the normalisation: `[..., 3]` floats to uint8."""
  shape = (1,) * (np.ndim(view) - 1) + (3,)
  view = np.asarray(view, np.float32)
  view = view * np.reshape(std, shape) + np.reshape(mean, shape)
  return np.clip(np.round(255 * view), 0, 255).astype(np.uint8)


def main(arguments: Sequence[str]) -> int:
  """Parses the flags, draws, writes the file; returns the exit status."""
  flags = cli.parser("cassle_jax.preview", __doc__)
  cli.add_config(flags)
  flags.add_argument("--out", default="views.png", help="file (views.png)")
  flags.add_argument("--images", type=int, default=4, help="rows (4)")
  flags.add_argument(
    "--draws",
    type=int,
    default=2,
    help="draws of each policy, at least one a descriptor with ai (2)",
  )
  values, overrides = cli.parse(flags, arguments)
  if values.images < 1 or values.draws < 1:
    raise errors.UserError("--images and --draws must be at least 1.")
  cli.check_output("--out", values.out)

  from cassle_jax import config as config_lib

  config = config_lib.load(values.config, overrides)

  import jax
  import jax.numpy as jnp

  from cassle_jax import augment, data
  from cassle_jax.runs import logs
  from cassle_jax.training import notes
  from cassle_jax.training import setup as setup_lib

  config = setup_lib.resolve(config)
  config.precision = "float32"
  aware = setup_lib.build_awareness(config)
  policies = setup_lib.build_policies(config)
  aware.check(policies)
  # The first pictures as training would see them, and no others.
  options = dict(config.data, resident_bytes=0)
  pipeline = data.build(**options, seed=config.seed, batch_size=values.images)
  logs.say(notes.understood(pipeline.source))
  batch = next(pipeline.batches(0))
  pipeline.close()
  make = jax.jit(
    lambda *inputs, **given: aware.views(*inputs, policies=policies, **given)
  )
  columns, names = [], []
  # Each draw shows another descriptor's views, and none is left out.
  for draw_index in range(max(values.draws, len(aware.descriptors))):
    key = jax.random.fold_in(jax.random.key(config.seed), draw_index)
    index, chosen = {}, ""
    if aware.descriptors:
      place = draw_index % len(aware.descriptors)
      index["index"] = jnp.int32(place)
      numbers = ", ".join(f"{x:g}" for x in aware.descriptors[place])
      chosen = f", ({numbers})"
    drawn = make(
      key,
      *(jnp.asarray(batch[name]) for name in ("image", "size")),
      stored=jnp.asarray(batch["stored"]),
      **index,
    )
    for number, view in enumerate(jax.device_get(drawn)):
      # LooC makes more views than there are policies: the rest are keys.
      policy = policies[min(number, len(policies) - 1)]
      pixels = to_pixels(view.image, policy.mean, policy.std)
      columns.append((pixels, view.omega))
      names.append(f"view {number + 1}, draw {draw_index + 1}{chosen}")

  pictures = [
    image[: size[0], : size[1]]
    for image, size in zip(batch["image"], batch["stored"], strict=True)
  ]
  size = config.data.image_size
  title = f"{config.data.source}, {size} px, preset {config.augment.preset}"
  told = config.model.conditioning != "none"
  fields = config.model.omega if told else augment.active_fields(policies)
  fields = augment.omega.ordered(fields)
  ranges = augment.field_ranges(policies)
  sheet = draw(
    pictures, columns, fields, title=title, names=names, ranges=ranges
  )
  try:
    sheet.save(values.out)
  except (OSError, ValueError) as error:
    raise cli.unwritable("--out", values.out, error) from error
  words = ", ".join(fields) if told else "nothing"
  print(f"wrote {values.out}; the config's projector is told: {words}")
  return 0


if __name__ == "__main__":
  cli.run(main)
