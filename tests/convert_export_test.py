"""Exports: what is in the files, and that what is not right is not written."""

import io
import json
import os
import re
import zipfile

import exported
import numpy as np
import pytest
import small_run

from cassle_jax.convert import (
  exporting,
  importing,
  onnx_graph,
  served,
  states,
  torch_writer,
)
from cassle_jax.convert import run as run_lib
from cassle_jax.data import decode
from cassle_jax.errors import UserError
from cassle_jax.training import trained
from cassle_jax.weights import foreign, reader, recognize, torch_names

VIT = dict(model__backbone="vit_debug", model__width="0", model__patch_size="8")
RESNET = dict(model__backbone="resnet18", model__width="64")


def arrays(path):
  weights = reader.read(str(path))
  return {name: reader.array(weights, name) for name in weights.tensors}


def equal(found, wanted):
  assert set(found) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_torch_files_are_read_back_and_are_always_the_same(tmp_path):
  draw = np.random.default_rng(0)
  state = {
    "a.weight": draw.normal(size=(3, 4, 5)).astype(np.float32),
    "turned": draw.normal(size=(3, 4)).astype(np.float32).T,
    "count": np.array(7, np.int64),
    "half": draw.normal(size=3).astype(np.float16),
    "empty": np.zeros((0, 3), np.float32),
  }
  held = {"model": state, "epoch": -300, "names": ["a", "é"], "on": True}
  files = []
  for name in ("a.pth", "b.pth"):
    with open(tmp_path / name, "wb") as file:
      torch_writer.write(file, held)
    files.append((tmp_path / name).read_bytes())
  assert files[0] == files[1]
  found = arrays(tmp_path / "a.pth")
  equal(found, {f"model.{name}": array for name, array in state.items()})
  # Storages can be mapped into memory: torch wants them at multiples of 64.
  with zipfile.ZipFile(tmp_path / "a.pth") as archive:
    for member in archive.infolist():
      if "/data/" in member.filename:
        with open(tmp_path / "a.pth", "rb") as file:
          file.seek(member.header_offset)
          head = file.read(30)
        lengths = np.frombuffer(head[26:30], np.uint16)
        assert (member.header_offset + 30 + lengths.sum()) % 64 == 0
  for wrong in (object(), {"a": {1, 2}}, np.array(["a"])):
    with pytest.raises(TypeError):
      torch_writer.write(io.BytesIO(), wrong)


def test_timm_folder_of_a_vit(tmp_path):
  run = exported.opened(**VIT)
  folder = exported.write(tmp_path / "out", run, "timm")
  assert sorted(os.listdir(folder)) == [
    "README.md",
    "cassle_jax.json",
    "config.json",
    "model.safetensors",
  ]
  found = arrays(folder / "model.safetensors")
  # Fixed positions are in it, for timm's loading is strict.
  assert found["pos_embed"].shape == (1, 1 + 4, 64)
  assert not found["pos_embed"][0, 0].any()
  back = torch_names.from_torch(run.variables["backbone"], found)
  for kind, tree in back.items():
    flat = torch_names.to_torch({kind: tree})
    equal(flat, torch_names.to_torch({kind: run.variables["backbone"][kind]}))
  config = json.loads((folder / "config.json").read_text())
  assert config["architecture"] == "vit_base_patch16_224"
  assert config["model_args"] == {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 64,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 0,
  }
  assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
  assert config["num_features"] == 64 and config["global_pool"] == "token"
  card = (folder / "README.md").read_text()
  assert "4 attention heads" in card and 'license: "other"' in card
  assert "model.backbone = " in card and "SimCLR (CASSLE)" in card


def test_official_layout_has_projector_and_gamma(tmp_path):
  run = exported.opened(awareness__name="cassle+augself", **RESNET)
  folder = exported.write(tmp_path / "out", run, "cassle")
  found = arrays(folder / "model.pth")
  wanted = {
    f"{network}.{name}": array
    for network in ("backbone", "projector")
    for name, array in torch_names.to_torch(run.variables[network]).items()
  }
  heads = torch_names.to_torch(run.variables["pair_heads"])
  wanted |= {f"ss_predictor.{name}": array for name, array in heads.items()}
  equal(found, wanted)
  assert "projector.aug_processor.0.weight" in found
  assert "projector.projector.0.weight" in found
  assert "ss_predictor.crop.0.weight" in found
  equal(arrays(folder / "model.safetensors"), wanted)
  card = (folder / "README.md").read_text()
  assert f"{', '.join(run.setup.fields)}: 14 numbers" in card


def test_a_plain_projector_is_the_layers_themselves(tmp_path):
  run = exported.opened(awareness__name="vanilla", **VIT)
  folder = exported.write(tmp_path / "out", run, "cassle")
  names = [n for n in arrays(folder / "model.pth") if n.startswith("projector")]
  assert sorted(names)[:2] == ["projector.0.weight", "projector.1.bias"]


def test_detectron2_names_are_those_of_its_conversion_script(tmp_path):
  """MoCo's script replaces words of torchvision's names one after the other."""

  def replaced(name):
    if "layer" not in name:
      name = f"stem.{name}"
    for number in (1, 2, 3, 4):
      name = name.replace(f"layer{number}", f"res{number + 1}")
      name = name.replace(f"bn{number}", f"conv{number}.norm")
    name = name.replace("downsample.0", "shortcut")
    return name.replace("downsample.1", "shortcut.norm")

  run = exported.opened(**RESNET)
  folder = exported.write(tmp_path / "out", run, "detectron2")
  state = torch_names.to_torch(run.variables["backbone"])
  found = arrays(folder / "model.pth")
  equal(found, {f"model.{replaced(n)}": array for n, array in state.items()})
  assert states.detectron2_name("layer2.0.downsample.1.bias") == (
    "res3.0.shortcut.norm.bias"
  )
  pickled = zipfile.ZipFile(folder / "model.pth").read("archive/data.pkl")
  assert b"matching_heuristics" in pickled and b"__author__" in pickled
  assert (
    "PIXEL_MEAN: [123.675, 116.28, 103.53]"
    in (folder / "README.md").read_text()
  )


@pytest.mark.parametrize(
  "format, overrides, message",
  [
    ("timm", {}, "not a ConvNet; use --format=onnx"),
    ("timm", dict(model__backbone="resnet18"), "width 64, not 8"),
    (
      "timm",
      dict(model__backbone="resnet18", model__stem="small"),
      "no ResNet with the stem 'small'",
    ),
    ("timm", VIT | dict(model__pool="both"), "features are .cls ; mean"),
    ("timm", VIT | dict(model__mlp="swiglu"), "SwiGLU"),
    (
      "timm",
      VIT | dict(model__backbone="vit_conv_debug"),
      "convolution stem",
    ),
    ("torchvision", VIT, "use --format=timm"),
    ("detectron2", VIT, "use --format=timm"),
    ("cassle", VIT | dict(model__registers="2"), "MoCo-v3's ViTs alone"),
    (
      "cassle",
      dict(model__backbone="resnet18", awareness__name="ai"),
      "no torch layout",
    ),
    ("onnx", dict(awareness__name="ai"), "told a descriptor"),
  ],
)
def test_what_has_no_place_is_refused(tmp_path, format, overrides, message):
  if format == "onnx":
    pytest.importorskip("onnxruntime")
  run = exported.opened(**overrides)
  with pytest.raises(UserError, match=message) as error:
    exported.write(tmp_path / "out", run, format)
  assert "\n" not in str(error.value)
  assert not os.listdir(tmp_path / "out")


def test_a_refused_export_leaves_nothing(tmp_path):
  small_run.make(tmp_path / "run")
  line = [str(tmp_path / "run"), "--format=timm", f"--out={tmp_path}/out"]
  with pytest.raises(UserError, match="not a ConvNet"):
    exporting.main(line)
  assert os.listdir(tmp_path) == ["run"]


@pytest.mark.parametrize(
  "words, message",
  [
    (["--format=timmm", "--out=a"], "Did you mean 'timm'"),
    (["--format=timm"], "--out=DIR"),
    (["--format=timm", "--out=/nope/a"], "no folder '/nope'"),
    (["--format=timm", "--out=a", "--config.seed=1"], "leave it out"),
    (["--format=timm", "--out=/tmp"], "is not empty"),
    (["--format=timm", "--out=a", "--image_size=8"], "leave it out"),
    (["--format=onnx", "--out=a", "--step=9"], "no checkpoint of step 9"),
  ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, message):
  small_run.make(tmp_path / "run")
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    exporting.main([str(tmp_path / "run"), *words])
  assert "\n" not in str(error.value)
  assert os.listdir(tmp_path) == ["run"]


def test_card_shows_figures_of_the_step_and_no_markup_of_data(tmp_path):
  small_run.make(tmp_path / "run")
  below = tmp_path / "run" / "eval" / "knn"
  below.mkdir(parents=True)
  record = {
    "task": "knn",
    "metric": "top1 | <b>",
    "value": 66.25,
    "interval": 1.5,
    "unit": "%",
    "step": 3,
  }
  (below / "earth.json").write_text(json.dumps(record))
  (below / "old.json").write_text(json.dumps(record | {"step": 2}))
  (below / "torn.json").write_text("{")
  pytest.importorskip("onnxruntime")
  line = [str(tmp_path / "run"), "--format=onnx", f"--out={tmp_path}/out"]
  assert exporting.main([*line, "--license=apache-2.0"]) == 0
  card = (tmp_path / "out" / "README.md").read_text()
  rows = [row for row in card.splitlines() if row.startswith("| knn")]
  assert len(rows) == 1 and r"top1 \| \<b\>" in rows[0]
  assert "66.2 ± 1.5 %" in rows[0]
  assert 'license: "apache-2.0"' in card and "| licence | apache-2.0 |" in card
  # A front matter that hubs can read.
  yaml = pytest.importorskip("yaml")
  front = yaml.safe_load(re.match(r"---\n(.*?)\n---", card, re.S)[1])
  assert front["license"] == "apache-2.0"


def onnx_features(folder, images):
  onnxruntime = pytest.importorskip("onnxruntime")
  session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
  x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
  return session.run(None, {"images": x})[0]


@pytest.mark.parametrize(
  "overrides",
  [
    dict(model__norm="group"),
    # A max pool at the stem, whose padding converters lose.
    dict(model__backbone="resnet18"),
    VIT
    | dict(
      model__positions="learned",
      model__registers="2",
      model__layer_scale="0.1",
      model__pool="both",
      model__mlp="swiglu",
    ),
    pytest.param({}, marks=pytest.mark.slow),
    pytest.param(VIT, marks=pytest.mark.slow),
    pytest.param(
      VIT | dict(model__mlp="gelu_tanh", model__pool="mean"),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      VIT | dict(model__class_token="False", model__pool="mean"),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      VIT | dict(model__backbone="vit_conv_debug"), marks=pytest.mark.slow
    ),
    pytest.param(dict(model__backbone="resnet50"), marks=pytest.mark.slow),
    pytest.param(
      dict(model__backbone="resnet18", model__stem="space_to_depth"),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      dict(model__backbone="resnet18", model__stem="small"),
      marks=pytest.mark.slow,
    ),
  ],
  ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_onnx_gives_the_runs_features(tmp_path, overrides):
  pytest.importorskip("onnxruntime")
  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, "onnx")
  images = served.random_images(16, count=5)
  exported.close(
    onnx_features(folder, images), exported.expected(run, images), 1e-5
  )


def test_onnx_of_other_features_is_not_written(tmp_path, monkeypatch):
  """Without the padding of the max pool, as the converters write it."""
  pytest.importorskip("onnxruntime")
  pool = onnx_graph.Graph.max_pool
  monkeypatch.setattr(
    onnx_graph.Graph,
    "max_pool",
    lambda self, x, size, stride, pad: pool(self, x, size, stride, 0),
  )
  run = exported.opened(model__backbone="resnet18")
  with pytest.raises(UserError, match="other features.*not written"):
    exported.write(tmp_path / "out", run, "onnx", image_size=32)
  assert not os.listdir(tmp_path / "out")


def test_learned_positions_are_resized_in_the_graph(tmp_path):
  pytest.importorskip("onnxruntime")
  run = exported.opened(**VIT, model__positions="learned")
  folder = exported.write(tmp_path / "out", run, "onnx", image_size=24)
  images = served.random_images(24, count=2)
  exported.close(
    onnx_features(folder, images), exported.expected(run, images), 1e-5
  )


@pytest.mark.parametrize(
  "overrides",
  [
    dict(awareness__name="ai", model__amortised_rank="4"),
    pytest.param(dict(model__backbone="resnet18"), marks=pytest.mark.slow),
    pytest.param(VIT, marks=pytest.mark.slow),
  ],
  ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_stablehlo_serves_any_number_of_pictures(tmp_path, overrides):
  pytest.importorskip("flatbuffers")
  from jax import export

  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, "stablehlo")
  data = bytearray((folder / "model.stablehlo").read_bytes())
  program = export.deserialize(data)
  assert program.platforms == ("cpu", "cuda", "tpu")
  for count in (1, 4):
    images = served.random_images(16, count=count)
    exported.close(program.call(images), exported.expected(run, images), 1e-6)


def test_features_that_differ_are_refused():
  one = np.array([[1.0, 2.0]])
  assert served.check(one, one, 0, "x") == 0
  assert served.check(one + 1e-3, one, 1e-3, "x") == pytest.approx(5e-4)
  for found in (one + 1e-2, one * np.nan, one[:, :1]):
    with pytest.raises(UserError, match="not written"):
      served.check(found, one, 1e-3, "x")


@pytest.mark.parametrize(
  "format, package", [("onnx", "onnx"), ("stablehlo", "flatbuffers")]
)
def test_missing_packages_are_named(tmp_path, monkeypatch, format, package):
  run = exported.opened()
  monkeypatch.setitem(__import__("sys").modules, package, None)
  with pytest.raises(UserError, match=f"pip install {package}"):
    exported.write(tmp_path / "out", run, format)


@pytest.mark.parametrize(
  "format, overrides",
  [
    ("timm", VIT | dict(model__attention_heads="8", model__pool="mean")),
    ("timm", RESNET),
    ("torchvision", RESNET),
    ("cassle", RESNET | dict(method__name="swav")),
    ("cassle", VIT | dict(model__conditioning="add", method__name="vicreg")),
    (
      "cassle",
      dict(
        model__backbone="resnet18",
        model__conditioning="multiply",
        model__omega="crop,rotation,solarize",
        augment__rotation="0.5",
        augment__solarize="0.2",
      ),
    ),
    ("cassle", RESNET | dict(awareness__name="vanilla")),
  ],
)
def test_an_import_of_an_export_needs_no_flag(tmp_path, format, overrides):
  settings = {"augment__mean": "0.1,0.2,0.3", "augment__std": "0.4,0.5,0.6"}
  run = exported.opened(**overrides, **settings, data__image_size="48")
  folder = exported.write(tmp_path / "out", run, format)
  for file in (folder, folder / "model.pth"):
    if not file.exists():
      continue
    found = recognize.recognize(reader.read(str(file)))
    config = run_lib.configure(foreign.take(found))
    assert config.data.image_size == 48
    assert config.augment.mean == (0.1, 0.2, 0.3)
    assert config.augment.std == (0.4, 0.5, 0.6)
    assert config.method.name == run.config.method.name
    keys = ["backbone"]
    if "vit" in config.model.backbone:
      keys += ["pool"]
      heads = states.vit_settings(run.setup.networks.backbone)
      assert config.model.attention_heads == heads["attention_heads"]
    if format == "cassle":
      keys += ["omega", "conditioning", "projector"]
    for key in keys:
      assert config.model[key] == run.config.model[key], key


def test_the_card_tells_of_positions_of_another_size(tmp_path):
  learned = VIT | dict(model__positions="learned", model__positions_grid="4")
  for size, told in ((32, False), (48, True)):
    run = exported.opened(**learned, data__image_size=str(size))
    folder = exported.write(tmp_path / str(size), run, "timm")
    card = (folder / "README.md").read_text()
    assert ("take 32 px, of which the positions are" in card) == told
    assert "if picture.size == (32, 32):" in card


def test_timm_resizes_to_the_short_side_of_evaluations():
  for size in range(8, 1000):
    share = states.crop_share(size)
    assert int(size / share) == decode.short_side_of(size), size
  assert states.crop_share(224) == states.crop_share(64) == 0.875


@pytest.mark.parametrize(
  "format, overrides, flags",
  [
    ("timm", VIT | dict(model__attention_heads="8"), []),
    pytest.param(
      "timm",
      VIT | dict(model__positions="learned", model__layer_scale="0.1"),
      ["--layout=timm"],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "timm",
      VIT
      | dict(
        model__positions="learned", model__pool="mean", model__mlp="gelu_tanh"
      ),
      [],
      marks=pytest.mark.slow,
    ),
    pytest.param("torchvision", RESNET, [], marks=pytest.mark.slow),
    pytest.param(
      "cassle",
      RESNET,
      [],
      marks=pytest.mark.slow,
    ),
    pytest.param("timm", RESNET, [], marks=pytest.mark.slow),
  ],
)
def test_what_was_exported_is_imported_bit_for_bit(
  tmp_path, format, overrides, flags
):
  run = exported.opened(**overrides)
  folder = exported.write(tmp_path / "out", run, format)
  for number, file in enumerate(sorted(folder.glob("model.*"))):
    workdir = str(tmp_path / f"run{number}")
    assert importing.main([str(file), f"--workdir={workdir}", *flags]) == 0
    back = trained.open_run(workdir)
    networks = ["backbone", "projector"][: 1 + (format == "cassle")]
    for network in networks:
      equal(
        torch_names.to_torch(back.variables[network]),
        torch_names.to_torch(run.variables[network]),
      )
    kept = back.setup.policies[0], run.setup.policies[0]
    assert kept[0].mean == kept[1].mean and kept[0].std == kept[1].std
    if overrides.keys() >= VIT.keys():
      networks = back.setup.networks.backbone, run.setup.networks.backbone
      for key in ("heads", "pool", "mlp", "positions"):
        assert getattr(networks[0], key) == getattr(networks[1], key), key
