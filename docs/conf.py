"""Sphinx: `sphinx-build -W docs build/docs` (pip install -e '.[docs]')."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import pages

import cassle_jax

project = "cassle_jax"
author = "cassle_jax contributors"
copyright = author
version = release = cassle_jax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
exclude_patterns = ["_build"]

autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # Or fields would be listed a second time.
# Shapes and names stand in single backticks, which would be roles.
default_role = "code"
# Cells with shell lines; fields that have one name in several classes.
suppress_warnings = ["misc.highlighting_failure", "ref.python"]

html_theme = "furo"
html_title = f"cassle_jax {version}"
html_static_path = []


def setup(app):
  """Writes the pages that follow from the code before they are read."""
  app.connect("builder-inited", lambda app: pages.write(app.srcdir))
  app.connect("source-read", _link)


def _link(app, name, source):
  """Links to files of a clone lead to their pages."""
  inside = name.startswith("generated/")
  source[0] = re.sub(
    r"\]\((?:\.\./)+(?:launch/)?(?:colab/)?([\w.]+)\)",
    r"](\1)" if inside else r"](generated/\1)",
    source[0],
  )
