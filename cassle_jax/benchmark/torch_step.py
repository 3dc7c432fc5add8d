"""A plain PyTorch step of the same method, to be timed beside ours.

What a good PyTorch user would write: kornia augments on the device inside the
step; on a GPU channels last, autocast to the config's type, torch.compile
around both encoders and the loss, fused AdamW; on a CPU none of these, and one
thread, which costs least CPU time. One device. The methods follow their papers:
SimCLR (arXiv 2002.05709), MoCo-v2 (2003.04297; BatchNorm over the whole batch),
MoCo-v3 (2104.02057).
"""

import copy
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from cassle_jax.benchmark import (
  common,
  kornia_views,
  program,
  torch_networks,
)
from cassle_jax.errors import UserError, unknown
from cassle_jax.models import resnet, vit
from cassle_jax.runs import logs

METHODS = ("simclr", "mocov2", "mocov3")


def check(config: ConfigDict) -> Callable[[], program.Program]:
  """Checks whether the config's method can be had; returns what makes it.

  Args:
    config: of a run; its awareness is left out of the peer.

  Raises:
    UserError: torch or kornia is missing, or the peer lacks what the config
      asks for.
  """
  if config.method.name not in METHODS:
    raise unknown("method for --compare torch", config.method.name, METHODS)
  known = [name for name in resnet.VARIANTS] + [
    name for name, row in vit.VARIANTS.items() if not row[3]
  ]
  if config.model.backbone not in known:
    raise unknown("backbone for --compare torch", config.model.backbone, known)
  if config.accumulate > 1:
    raise UserError(
      f"accumulate={config.accumulate}: the peer of --compare torch takes whole"
      " batches; set --config.accumulate=1."
    )
  plain = config.copy_and_resolve_references()
  parts = program.build(plain)
  if parts.mesh.size > 1:
    raise UserError(
      f"--compare torch runs on one device and the mesh has {parts.mesh.size};"
      " set --config.mesh.data=1."
    )
  kornia_views.pipelines((), flag="--compare torch")
  return lambda: prepare(parts)


def prepare(parts: Any) -> program.Program:
  """Makes the step's networks, optimiser and batch, and runs it once.

  Args:
    parts: of the run, from `program.build`.
  """
  import torch

  config, method = parts.config, parts.method
  gpu = torch.cuda.is_available()
  device = torch.device("cuda" if gpu else "cpu")
  torch.manual_seed(0)
  if not gpu:
    torch.set_num_threads(1)  # Waiting threads spin, which costs CPU time.
  else:
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    torch.cuda.reset_peak_memory_stats()
  pipelines, left_out = kornia_views.pipelines(
    parts.policies, flag="--compare torch"
  )
  if left_out:
    logs.say(f"kornia is not asked for: {', '.join(left_out)}")
  pipelines = [made.to(device) for made in pipelines]
  rows, canvas = config.batch_size, config.data.canvas_size
  images = torch.from_numpy(common.images(rows, canvas)).to(device)

  online = torch.nn.ModuleDict(_networks(parts)).to(device)
  if gpu:
    online = online.to(memory_format=torch.channels_last)
  target = None
  if method.target_views:
    target = copy.deepcopy(
      torch.nn.ModuleDict(
        {name: online[name] for name in ("backbone", "projector")}
      )
    ).requires_grad_(False)
  queue = None
  if config.method.name == "mocov2":
    size = parts.abstract.memory["queue"].shape
    queue = torch.nn.functional.normalize(torch.randn(*size, device=device))
  temperature = method.contrastive.temperature
  losses = {"simclr": _simclr, "mocov2": _mocov2, "mocov3": _mocov3}
  loss_of = losses[config.method.name](online, target, queue, temperature)
  if gpu:
    loss_of = torch.compile(loss_of)
  optimizer = _optimizer(config, [p for p in online.parameters()])
  half = {"bfloat16": torch.bfloat16, "float16": torch.float16}
  autocast = torch.autocast(
    device.type,
    dtype=half.get(config.precision, torch.bfloat16),
    enabled=config.precision in half,
  )
  held = [0]

  def step() -> None:
    with torch.no_grad():
      planes = images.permute(0, 3, 1, 2).float().div_(255)
      views = [made(planes) for made in pipelines]
      if gpu:
        views = [
          view.contiguous(memory_format=torch.channels_last) for view in views
        ]
      if target is not None:
        _move(target, online, method.momentum)
    with autocast:
      loss, keys = loss_of(views)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if queue is not None:
      queue[held[0] : held[0] + rows] = keys
      held[0] = (held[0] + rows) % len(queue)
    if gpu:
      torch.cuda.synchronize()

  cost, _ = common.timed(step)
  return program.Program(
    step=step,
    batch_size=rows,
    figures=program.figures(
      parts,
      awareness="vanilla",
      parameters=sum(p.numel() for p in online.parameters()),
      compile_seconds=cost.wall / 1e3,
      peak_bytes=torch.cuda.max_memory_allocated() if gpu else None,
    ),
  )


def _networks(parts: Any) -> dict[str, Any]:
  """Backbone, projector and predictor with the sizes of the run's own."""
  model, networks = parts.config.model, parts.networks
  if model.backbone in resnet.VARIANTS:
    stem = "small" if model.stem == "small" else "imagenet"
    backbone = torch_networks.resnet(model.backbone, stem=stem)
  else:
    backbone = torch_networks.vit(
      model.backbone,
      image_size=parts.config.data.image_size,
      patch_size=networks.backbone.patch_size,
    )
  heads, result = networks.projector, {"backbone": backbone}
  result["projector"] = torch_networks.mlp(
    networks.backbone.features,
    heads.widths,
    norm=heads.norm,
    last_bias=heads.last_bias,
    hidden_norm=heads.hidden_norm,
  )
  if networks.predictor is not None:
    result["predictor"] = torch_networks.mlp(
      heads.widths[-1],
      networks.predictor.widths,
      norm=networks.predictor.norm,
      last_bias=networks.predictor.last_bias,
      hidden_norm=networks.predictor.hidden_norm,
    )
  return result


def _unit(x: Any) -> Any:
  import torch

  return torch.nn.functional.normalize(x.float(), dim=1)


def _in_float32(function: Callable) -> Callable:
  """A loss that autocast leaves alone."""
  import torch

  def run(*inputs):
    with torch.autocast(inputs[0].device.type, enabled=False):
      return function(*inputs)

  return run


def _simclr(online, target, queue, temperature) -> Callable:
  """NT-Xent: each row finds its other view among all others."""
  import torch

  del target, queue

  @_in_float32
  def nt_xent(z1, z2):
    z = _unit(torch.cat([z1, z2]))
    logits = z @ z.T / temperature
    logits.fill_diagonal_(float("-inf"))
    own = torch.arange(len(z), device=z.device).roll(len(z1))
    return torch.nn.functional.cross_entropy(logits, own)

  def loss(views):
    z1, z2 = (online["projector"](online["backbone"](x)) for x in views)
    return nt_xent(z1, z2), None

  return loss


def _mocov2(online, target, queue, temperature) -> Callable:
  """InfoNCE of one view's queries, the other's keys and the queue."""
  import torch

  @_in_float32
  def info_nce(q, k):
    q, k = _unit(q), _unit(k)
    positive = (q * k).sum(1, keepdim=True)
    logits = torch.cat([positive, q @ queue.clone().T], 1) / temperature
    first = torch.zeros(len(q), dtype=torch.long, device=q.device)
    return torch.nn.functional.cross_entropy(logits, first), k

  def loss(views):
    q = online["projector"](online["backbone"](views[0]))
    with torch.no_grad():
      k = target["projector"](target["backbone"](views[1]))
    return info_nce(q, k)

  return loss


def _mocov3(online, target, queue, temperature) -> Callable:
  """ctr(q1, k2) + ctr(q2, k1), algorithm 1."""
  import torch

  del queue

  @_in_float32
  def contrast(q, k):
    logits = _unit(q) @ _unit(k).T / temperature
    own = torch.arange(len(q), device=q.device)
    return 2 * temperature * torch.nn.functional.cross_entropy(logits, own)

  def loss(views):
    q1, q2 = (
      online["predictor"](online["projector"](online["backbone"](x)))
      for x in views
    )
    with torch.no_grad():
      k1, k2 = (target["projector"](target["backbone"](x)) for x in views)
    return contrast(q1, k2) + contrast(q2, k1), None

  return loss


def _move(target: Any, online: Any, momentum: float) -> None:
  """Moves the target's parameters towards the online ones."""
  import torch

  new = [p for name in target for p in online[name].parameters()]
  torch._foreach_lerp_(list(target.parameters()), new, 1 - momentum)


def _optimizer(config: ConfigDict, parameters: list[Any]) -> Any:
  """The config's optimiser, at a rate of its order; LARS by its paper.

  You et al. 2017, arXiv 1708.03888.
  """
  import torch

  parameters = [p for p in parameters if p.requires_grad]
  rate, decay = config.optim.learning_rate, config.optim.weight_decay
  if config.optim.name == "adamw":
    gpu = parameters[0].is_cuda
    return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=gpu)
  sgd = torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=decay)
  if config.optim.name == "sgd":
    return sgd

  class Lars(torch.optim.SGD):
    @torch.no_grad()
    def step(self):
      known = [p for p in parameters if p.grad is not None and p.ndim > 1]
      grads = [p.grad for p in known]
      weights = torch._foreach_norm(known)
      norms = torch._foreach_norm(grads)
      trust = [
        torch.where((w > 0) & (g > 0), 1e-3 * w / (g + decay * w), 1.0)
        for w, g in zip(weights, norms, strict=True)
      ]
      torch._foreach_mul_(grads, trust)
      super().step()

  return Lars(parameters, rate, momentum=0.9, weight_decay=decay)
