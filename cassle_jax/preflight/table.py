"""The answers of preflight as text: for a terminal, and as a page."""

import datetime
from collections.abc import Sequence
from typing import Any

from cassle_jax.hosts.device_memory import size
from cassle_jax.preflight import bounds
from cassle_jax.preflight.topologies import Topology, parse

# Seconds of a step below which the time between kernels is most of it.
_SHORT = 1e-3
# Parts of the step that are shown; the rest is summed.
_ROWS = 8


def report(found: dict[str, Any], result: dict[str, Any]) -> str:
  """All that is known of one run on one topology.

  Args:
    found: from `compiler.compiled`.
    result: from `bounds.figures`.
  """
  topology = parse(result["topology"])
  lines = [
    f"{result['topology']}: {result['devices']} x {topology.chip.kind.strip()},"
    f" {heading(found)}",
    _memory(result, topology),
    f"arithmetic: {_digits(result['flops_per_image'] / 1e9)} GFLOP an image,"
    f" {_digits(found['flops'] / 1e12)} TFLOP a step (products and"
    f" convolutions, {found['views']} views, forward and backward)",
  ]
  if result["traffic_bytes_per_image"] is None:
    lines.append(
      "traffic, links: not known, for the compiler refuses a program that does"
      " not fit; the bound below is that of arithmetic alone"
    )
  else:
    lines += [
      f"traffic: {_digits(result['traffic_bytes_per_image'] / 1e9)} GB an"
      " image (an estimate: caches are not known)",
      _links(found, topology),
      "",
      _parts(found),
      "",
      "largest arrays where memory is fullest (an estimate):",
      *_largest(found),
    ]
  lines += ["", *_bound(result, topology)]
  lines += [f"  {line}" for line in bounds.advice(found, result)]
  return "\n".join(lines)


def heading(found: dict[str, Any]) -> str:
  """What a run is, in a few words."""
  attention = found["attention"]
  return (
    f"{found['method']} {found['awareness']}, {found['backbone']},"
    f" {found['image_size']} px, batch {found['batch']}, {found['precision']}"
    + (f", attention {attention}" if attention else "")
  )


def _memory(result: dict[str, Any], topology: Topology) -> str:
  if result["memory_bytes"] is None:
    return "memory: does not fit; how much it needs the compiler does not tell"
  needed, limit = result["memory_bytes"], result["memory_limit_bytes"]
  word = "fits" if result["fits"] else "DOES NOT FIT"
  if result["fits"] and result["tight"]:
    word = "may not fit"
  share = "" if topology.tpu else " (JAX's share of it, 75 % unless told)"
  line = (
    f"memory of each device: {size(needed)} of {size(limit)}{share}: {word}"
  )
  if result["largest_batch"] is not None:
    line += f"; about {result['largest_batch']:,} images would (an estimate)"
  return line


def _links(found: dict[str, Any], topology: Topology) -> str:
  if not found["collectives"]:
    return "links: nothing is sent"
  causes: dict[str, float] = {}
  for one in found["collectives"]:
    causes[one["cause"]] = causes.get(one["cause"], 0) + one["sent"]
  total = sum(causes.values())
  each = ", ".join(
    f"{cause} {size(round(sent))}"
    for cause, sent in sorted(causes.items(), key=lambda pair: -pair[1])
  )
  count = sum(one["count"] for one in found["collectives"])
  link = f"{topology.chip.link / 1e9:,.0f} GB/s"
  if topology.hosts > 1:
    link += f", between hosts {topology.chip.network / 1e9:,.0f}"
  return (
    f"links: a device sends {size(round(total))} a step ({each}) in {count}"
    f" collectives, at {link}"
  )


def _parts(found: dict[str, Any]) -> str:
  """Traffic and memory by part of the step, the largest first."""
  traffic, held = found["traffic"], found["held"]
  total = sum(traffic.values()) or 1
  rows = [("part of the step", "traffic GB", "share", "memory GB")]
  shown = list(traffic)[:_ROWS]
  for name in shown:
    rows.append(_row(name, traffic[name], total, held.get(name, 0)))
  rest = [name for name in {**traffic, **held} if name not in shown]
  if rest:
    one = sum(traffic.get(name, 0) for name in rest)
    other = sum(held.get(name, 0) for name in rest)
    rows.append(_row("the rest", one, total, other))
  return "\n".join(
    f"  {name:<26}{one:>11}{share:>8}{other:>11}"
    for name, one, share, other in rows
  )


def _row(name: str, moved: int, total: int, held: int) -> tuple[str, ...]:
  share = f"{moved / total:.0%}"
  return name, _digits(moved / 1e9), share, _digits(held / 1e9)


def _largest(found: dict[str, Any]) -> list[str]:
  groups: dict[tuple[str, str], list[int]] = {}
  for one in found["largest"]:
    key = one["array"], f"{one['part']}, {one['source'] or 'unnamed'}"
    groups.setdefault(key, []).append(one["bytes"])
  return [
    f"  {len(each)} x {size(each[0])}  {array}  {where}"
    for (array, where), each in list(groups.items())[:5]
  ]


def _bound(result: dict[str, Any], topology: Topology) -> list[str]:
  ms = ", ".join(
    f"{name} {_digits(1e3 * seconds)}"
    for name, seconds in result["seconds"].items()
  )
  lines = [
    f"at most {result['images_per_second_bound']:,.0f} images/s, bound by"
    f" {result['bound_by']} (ms a step at least: {ms}; peaks:"
    f" {topology.chip.source})",
    f"{result['steps']:,} steps: {_hours(result['hours_bound'])} h,"
    f" {_hours(result['chip_hours_bound'])} chip-hours at that bound;"
    f" {_hours(result['hours'])} h, {_hours(result['chip_hours'])} chip-hours"
    f" at {result['efficiency']:.0%} of it (an estimate)",
  ]
  if max(result["seconds"].values()) < _SHORT:
    lines.append(
      "  a step so short is bound by what is not counted here: the launches of"
      " kernels, the latency of collectives, the input"
    )
  return lines


def _sent(found: dict[str, Any]) -> float | None:
  """Bytes that a device sends in a step."""
  if found["collectives"] is None:
    return None
  return sum(one["sent"] for one in found["collectives"])


def _digits(value: float) -> str:
  """Three digits that count, and no more than a thousandth."""
  if value >= 100:
    return f"{value:,.0f}"
  return f"{value:.3g}" if value >= 0.001 else f"{value:.0g}"


def _hours(hours: float) -> str:
  return f"{hours:.2g}" if hours < 0.1 else _digits(hours)


def page(
  cells: Sequence[tuple[str, dict[str, Any], dict[str, Any]]], command: str
) -> str:
  """A page in Markdown of several runs on several topologies.

  Args:
    cells: (config, found, result) of each.
    command: that made them.
  """
  known: dict[str, str] = {}
  for _, found, _ in cells:
    known |= found["versions"]
  made = ", ".join(f"{name} {version}" for name, version in known.items())
  lines = [
    "# What runs need, and how fast they can be",
    "",
    "Compiled by XLA's own compilers for machines that were not there: nothing",
    "was measured. Bounds are what arithmetic, memory and links allow at most,",
    "by published peaks. Traffic is an estimate, and so are the hours at"
    f" {cells[0][2]['efficiency']:.0%}",
    f"of a bound. Made {datetime.date.today()} with",
    f"{made} by",
    "",
    "```",
    command,
    "```",
    "",
    "| config | on | batch | memory GB | fits | GFLOP an image | GB an image |"
    " sent GB a step | images/s at most | bound by | chip-hours at most |"
    " chip-hours, estimate |",
    "|---" * 12 + "|",
  ]
  for name, found, result in cells:
    lines.append(
      "| "
      + " | ".join(
        [
          name,
          result["topology"],
          f"{found['batch']:,}",
          _cell(result["memory_bytes"])
          + f" of {result['memory_limit_bytes'] / 1e9:.1f}",
          "yes"
          if result["fits"] and not result["tight"]
          else "hardly"
          if result["fits"]
          else "no",
          _digits(result["flops_per_image"] / 1e9),
          _cell(result["traffic_bytes_per_image"]),
          _cell(_sent(found)),
          f"{result['images_per_second_bound']:,.0f}",
          result["bound_by"],
          _hours(result["chip_hours_bound"]),
          _hours(result["chip_hours"]),
        ]
      )
      + " |"
    )
  for name, found, result in cells:
    text = report(found, result)
    lines += ["", f"## {name} on {result['topology']}", "", "```", text, "```"]
  return "\n".join(lines) + "\n"


def _cell(count: float | None) -> str:
  """Bytes as GB."""
  return "not known" if count is None else _digits(count / 1e9)
