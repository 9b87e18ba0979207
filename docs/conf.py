"""How the pages are built: `sphinx-build -W -n -b html docs build`, without network."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent.parent)]

import minibert  # noqa: E402

project = "minibert"
author = "the authors of minibert"
release = minibert.__version__
extensions = ["myst_parser", "book"]
exclude_patterns = ["_ext", "_static"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

smartquotes = False

html_theme = "furo"
html_title = "minibert"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_search_summary = False  # it would fetch pages, which fails for pages opened from disk
html_show_copyright = False
html_show_sphinx = False
html_permalinks_icon = "#"
