"""How Sphinx builds the documentation: `make docs`. A warning is an error."""

from importlib.metadata import version as installed_version

project = "vfsd"
author = copyright = "The vfsd authors"
version = release = installed_version("vfsd")
extensions = ["myst_parser", "sphinx_click", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"vfsd {version}"


exclude_patterns = ["demo"]
myst_heading_anchors = 3
