"""Settings of Sphinx, which builds the documentation as a site: `make docs`.

The source folder is the repository itself, so that every link between its Markdown files holds on the site too.
"""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from reference.generate import write_commands, write_keys  # noqa: E402 it lies in this folder

from dacycle import __version__  # noqa: E402

project, author, version, release = "dacycle", "the dacycle developers", __version__, __version__
project_copyright = "the dacycle developers, Apache-2.0"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "*/README.md",
    "docs/*.md",
    "docs/*/*.md",
    "docs/notebooks/*.ipynb",
    "deploy/README.md",
    "deploy/recipes/era5/README.md",
    "*/weights/*.md",
    "tests/samples/MANIFEST.md",
]
exclude_patterns = [".*", "build"]
nitpicky = False
html_theme = "furo"
html_title = f"dacycle {version}"
html_static_path: list[str] = []
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
nb_execution_mode = "off"  # the outputs that are stored are shown; `make docs` executes the notebook before
suppress_warnings = ["myst.header"]


def setup(app: Any) -> None:
    """Write the pages that are generated from the code."""
    write_commands(ROOT / "docs/reference/commands.md")
    write_keys(ROOT / "docs/reference/experiment.md")
