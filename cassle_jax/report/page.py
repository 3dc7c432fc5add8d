"""The report as one HTML file, which `page.html` lays out.

Jinja escapes every text that comes from data there, and nothing else does.
"""

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from cassle_jax.report.tables import Table


class Picture(NamedTuple):
  """A picture of the report, which is a file beside it too.

  Attributes:
    file: its name.
    title: what it is of: method, data set.
    png: its bytes.
    width: in pixels at which a page shows it.
  """

  file: str
  title: str
  png: bytes
  width: int


Content = Table | Picture


class Section(NamedTuple):
  """A part of the report.

  Attributes:
    title: its heading.
    text: what is to be seen, a sentence or two; "" for none.
    content: tables and pictures from top to bottom. A table of the section's
      own title gets no second heading.
  """

  title: str
  text: str
  content: tuple[Content, ...]


def render(
  title: str,
  subtitle: str,
  sections: Sequence[Section],
  missing: Sequence[tuple[str, str]],
  warnings: Sequence[str],
) -> str:
  """The whole page.

  Args:
    title: of the page.
    subtitle: a line below it.
    sections: in the order of reading.
    missing: (heading, what makes the data) of the sections without data.
    warnings: what was left out, and why.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("cassle_jax.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters["anchor"] = lambda text: re.sub(
    r"[^a-z0-9]+", "-", text.lower()
  ).strip("-")
  environment.filters["base64"] = lambda png: base64.b64encode(png).decode()
  return environment.get_template("page.html").render(
    title=title,
    subtitle=subtitle,
    sections=sections,
    missing=missing,
    warnings=warnings,
  )
