"""Configuration of the documentation."""

from __future__ import annotations

import os
from importlib.metadata import metadata
from pathlib import Path

from sphinx.ext.napoleon import NumpyDocstring

_info = metadata("scgraphvci")
project = _info["Name"]
author = "The scgraphvci developers"
project_copyright = f"2026, {author}"
release = version = _info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static/css"]
html_css_files = ["wrap.css"]

autosummary_generate = True
autosummary_filename_map = {"scgraphvci.datasets.Truth": "scgraphvci.datasets.Truth-class"}  # beside truth()
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = True
typehints_defaults = "braces"
always_use_bars_union = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
linkcheck_timeout = 20

# Tutorials lie beside the documentation, of which Sphinx wants all sources in one folder. They are shown as stored.
_here = Path(__file__).parent
for _notebook in sorted((_here.parent / "tutorials").glob("*.ipynb")):
    _copy, _text = _here / "tutorials" / _notebook.name, _notebook.read_text().replace("](../docs/", "](../")
    if not _copy.is_file() or _copy.read_text() != _text:
        _copy.write_text(_text)

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Inventories come over the network, which a build elsewhere may not have.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if "READTHEDOCS" in os.environ
    else {}
)

suppress_warnings = [
    # Names imported only for type checkers, here and inside the libraries this project builds on.
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
]


def _returns_as_prose(self: NumpyDocstring, section: str) -> list[str]:
    """Take a Returns section as text: types stand in the signature, so its first line is not one."""
    lines = self._dedent(self._consume_to_next_section())
    if lines[:1] == [":"]:  # put there by sphinx_autodoc_typehints, against the very reading that is replaced here
        lines = lines[1:]
    text = self._format_block(":returns: ", lines)
    return [*text, ""] if text and text[-1] else text


NumpyDocstring._parse_returns_section = _returns_as_prose
