"""Maps of features: where points lie, and what page and picture hold."""

import html.parser
import json
import os

import numpy as np
import pytest
import small_run
from PIL import Image

from cassle_jax import embed
from cassle_jax.embed import layout, page, picture
from cassle_jax.errors import UserError


def drawn(count=12, side=8, names=("cat", "</script><b>dog")):
  draw = np.random.default_rng(0)
  labels = np.arange(count) % (len(names) + 1) - 1
  colors = [(30, 30, 30), (200, 10, 10), (10, 200, 10)]
  return picture.Map(
    title="runs/a on <set>",
    subtitle="words",
    points=draw.uniform(size=(count, 2)),
    neighbours=layout.nearest(draw.normal(size=(count, 5)), 3),
    labels=labels,
    names=names,
    paths=[f"/data/{i}\udcff.png" for i in range(count)],
    thumbnails=[
      np.full((side, side, 3), colors[label + 1], np.uint8) for label in labels
    ],
  )


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (5, 1)])
def test_pca_is_that_of_scikit_learn(shape):
  decomposition = pytest.importorskip("sklearn.decomposition")
  features = np.random.default_rng(1).normal(size=shape)
  points, share = layout.pca(features)
  own = decomposition.PCA(min(2, *shape)).fit(features)
  expected = own.transform(features)
  for axis in range(expected.shape[1]):
    sign = np.sign(expected[:, axis] @ points[:, axis])
    np.testing.assert_allclose(
      points[:, axis], sign * expected[:, axis], atol=1e-9
    )
    assert points[np.argmax(np.abs(points[:, axis])), axis] >= 0
  assert share == pytest.approx(own.explained_variance_ratio_.sum())


def test_nearest_and_agreement_by_hand():
  features = np.array([[1, 0], [2, 0.1], [0, 1], [0, 3], [-1, 0]], np.float32)
  nearest = layout.nearest(features, 2)
  # 2 and 3 point the same way; both are at right angles to 0 and 4.
  assert nearest.tolist() == [[1, 2], [0, 2], [3, 1], [2, 1], [2, 3]]
  labels = np.array([0, 0, 1, 1, -1])
  same, chance = layout.agreement(nearest, labels)
  assert same == pytest.approx(0.5) and chance == pytest.approx(0.5)
  assert np.isnan(layout.agreement(nearest, np.full(5, -1))).all()


def test_features_that_are_all_the_same_have_a_map():
  found = layout.place(np.ones((4, 3), np.float32), method="pca")
  assert np.isfinite(found.points).all() and found.neighbours.shape == (4, 3)


def test_points_fill_one_axis():
  features = np.random.default_rng(2).normal(size=(9, 4)).astype(np.float32)
  points = layout.place(features, method="pca").points
  span = np.max(points, axis=0) - np.min(points, axis=0)
  assert np.max(span) == pytest.approx(1) and np.min(points) >= -1e-9
  assert np.max(points) <= 1 + 1e-9


def test_methods(monkeypatch):
  with pytest.raises(UserError, match="Did you mean 'umap'"):
    layout.choose("umpa", 100)
  monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
  assert layout.choose("auto", 100) == "pca"
  with pytest.raises(UserError, match="pip install umap-learn"):
    layout.choose("umap", 100)
  monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: 1)
  assert layout.choose("auto", 100) == "umap"
  assert layout.choose("auto", 20) == "pca"


@pytest.mark.slow
def test_umap_keeps_clusters_apart_and_repeats_itself():
  pytest.importorskip("umap")
  draw = np.random.default_rng(3)
  centres = np.repeat(10 * np.eye(3, 8), 30, axis=0)
  features = (centres + draw.normal(size=centres.shape)).astype(np.float32)
  first = layout.place(features, method="umap").points
  again = layout.place(features, method="umap").points
  np.testing.assert_array_equal(first, again)
  labels = np.repeat(np.arange(3), 30)
  middle = np.stack([first[labels == k].mean(axis=0) for k in range(3)])
  away = np.linalg.norm(first[:, None] - middle[None], axis=-1)
  assert np.mean(np.argmin(away, axis=1) == labels) > 0.95


class Elements(html.parser.HTMLParser):
  """What a browser would see: elements, and the text of scripts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.scripts, self.links = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    self.links += [v for k, v in attributes if k in ("src", "href")]

  def handle_data(self, data):
    if self.tags and self.tags[-1] == "script":
      self.scripts.append(data)


def test_page_holds_all_and_nothing_of_the_data_is_code():
  found = drawn()
  text = page.render(found)
  elements = Elements(text)
  assert elements.tags.count("script") == 2 and "b" not in elements.tags
  assert not elements.links and "http" not in text
  data = json.loads(elements.scripts[0])
  assert data["names"] == list(found.names)
  assert data["labels"] == found.labels.tolist()
  assert data["neighbours"] == found.neighbours.tolist()
  np.testing.assert_allclose(data["points"], found.points, atol=1e-4)
  assert data["columns"] == 4 and len(data["colors"]) == 2
  assert "runs/a on &lt;set&gt;" in text


def test_every_thumbnail_is_in_the_sprite():
  found = drawn()
  sprite = Image.open(__import__("io").BytesIO(page._sprite(found, 8, 4)))
  assert sprite.size == (32, 24)
  for place, image in enumerate(found.thumbnails):
    row, column = divmod(place, 4)
    corner = sprite.getpixel((8 * column + 3, 8 * row + 3))
    np.testing.assert_allclose(corner, image[0, 0], atol=12)


def test_picture_shows_dots_thumbnails_and_legend():
  found = drawn(names=("cat", "dog"))
  sheet = np.asarray(picture.draw(found))
  palette = picture.colors(2)
  for color in palette:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.all(sheet == wanted, axis=-1).any()
  for image in found.thumbnails[:3]:
    # Cells do not overlap: of the rare colours whole tiles are there.
    assert np.all(sheet == image[0, 0], axis=-1).sum() >= 30 * 30
  one = picture.draw(found._replace(labels=np.full(12, -1), names=()))
  assert one.width < sheet.shape[1]


def test_of_a_cell_the_middle_one_is_shown():
  x, y = np.array([10.0, 19.0, 50.0]), np.array([12.0, 21.0, 12.0])
  assert picture._shown(x, y, 40) == [1, 2]


def test_colors_are_distinct():
  assert len(set(picture.colors(100))) == 100


@pytest.mark.parametrize("ending", ["html", "png"])
def test_command_draws(tmp_path, capsys, ending):
  small_run.make(tmp_path / "run")
  line = [
    f"--workdir={tmp_path}/run",
    "--source=bundled:earth",
    "--split=test",
    f"--out={tmp_path}/a.npz",
    "--plot_method=pca",
    "--plot_points=50",
  ]
  plot = tmp_path / f"b.{ending}"
  assert embed.main([*line, f"--plot={plot}"]) == 0
  said = capsys.readouterr().err
  assert "50 of 668 pictures; PCA" in said and "by chance" in said
  if ending == "html":
    data = json.loads(Elements(plot.read_text()).scripts[0])
    assert len(data["points"]) == 50 and len(data["names"]) == 9
    assert data["side"] == 32 and data["paths"][0].endswith("bundled:earth")
    # The same, beside the file, of what is there.
    assert embed.main([*line, "--plot"]) == 0
    assert plot.read_bytes() == (tmp_path / "a.html").read_bytes()
  else:
    with Image.open(plot) as sheet:
      assert sheet.size[0] > 1600
  assert not os.path.exists(tmp_path / "a.npz.parts")
