"""What links between devices carry, and how long a step's traffic takes there.

Bandwidths are published ones, of a device in one direction. What a ring sends
(`Collective.sent`) divided by them is a lower bound: no latency, nothing else
on the link, all of the links in use at once.
"""

from typing import NamedTuple


class Link(NamedTuple):
  """A way from a device to the others.

  Attributes:
    gigabytes_per_second: in one direction, 10^9 bytes.
    compute: the chip that is usually behind it, and its peak in TFLOP/s.
    source: how the figure follows from the published one.
  """

  gigabytes_per_second: float
  compute: tuple[str, float]
  source: str


LINKS = {
  "NVLink 4": Link(
    450.0, ("H100", 989.0), "NVIDIA H100: 900 GB/s in both directions together"
  ),
  "InfiniBand NDR": Link(
    50.0, ("H100", 989.0), "one port of 400 Gb/s for each GPU"
  ),
  "TPU v4 ICI": Link(300.0, ("TPU v4", 275.0), "Google: 2400 Gb/s a chip"),
  "TPU v5e ICI": Link(
    200.0, ("TPU v5e", 197.0), "Google: 400 GB/s a chip, both directions"
  ),
  "TPU v5p ICI": Link(
    600.0, ("TPU v5p", 459.0), "Google: 1200 GB/s a chip, both directions"
  ),
}
# What a collective costs at least, however little it sends; a round number of
# the order of NCCL's and of ICI's, not a measured one.
LATENCY_US = 10.0
# The share of the peak at which the stated compute time is reckoned.
UTILISATION = 0.45
# Of one 224 px picture through a ResNet-50: 4.1 G products and sums, twice that
# in operations, and three times for forward and backward.
RESNET50_FLOPS = 3 * 2 * 4.1e9


def wire_ms(sent: float, link: Link) -> float:
  """Milliseconds in which a device sends that many bytes over a link."""
  return sent / link.gigabytes_per_second / 1e6


def latency_ms(collectives: int) -> float:
  """Milliseconds that many collectives take at least, one after the other."""
  return collectives * LATENCY_US / 1e3


def compute_ms(views: int, link: Link) -> float:
  """Milliseconds of forward and backward of a ResNet-50 at `UTILISATION`.

  Args:
    views: pictures that a device takes through the network in a step.
    link: the chip behind it is the one that computes.
  """
  peak = link.compute[1] * 1e12
  return 1e3 * views * RESNET50_FLOPS / (UTILISATION * peak)
