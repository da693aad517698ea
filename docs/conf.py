"""Settings of the documentation's site: `make docs` builds it from the repository's Markdown.

Pages are plain Markdown that reads well in the repository too. A folder's README is its index and
gets a table of contents of what lies beside it. Nothing of the site is fetched from elsewhere.
"""

import re
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parent.parent
SIDEBAR = {
    "README": [
        "docs/README",
        "reports/log/README",
        "reports/results/README",
        "CONTRIBUTING",
        "CHANGELOG",
    ],
    "docs/README": ["docs/*.md", "docs/*/README.md"],
}
"""What the table of contents of an index holds; any other index has its neighbours."""

ACCESSIBLE = {
    '<aside class="sidebar-drawer"': '<aside aria-label="All pages" class="sidebar-drawer"',
    '<aside class="toc-drawer"': '<aside aria-label="This page" class="toc-drawer"',
    "<pre>": '<pre tabindex="0">',
    '<th class="head text-left"><p></p></th>': "<td></td>",
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '</noscript>\n\n<div id="search-': '</noscript>\n<h1>Search</h1>\n<div id="search-',
}
"""What axe-core misses in pages of the theme: names of landmarks, what scrolls by keyboard, cells
that head nothing, a heading. No key is found in a page that has them."""

project = "isoparam"
author = "the isoparam developers"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/**",
    "reports/log/**",
    "reports/results/**",
    "benchmarks/results/**",
]
exclude_patterns = ["docs/*.py", "DECISIONS.md"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_theme_options = {"top_of_page_buttons": []}
html_title = "isoparam"
html_show_sphinx = False
html_show_copyright = False
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # tables that a program wrote begin at any level


def open_folders(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead a link to a folder to its index, or make it plain text where it has none."""

    def target(match: re.Match[str]) -> str:
        folder = (ROOT / name).parent / match[2]
        if not folder.is_dir():
            return match[0]
        index = folder / "README.md"
        return f"[{match[1]}]({match[2].rstrip('/')}/README.md)" if index.is_file() else match[1]

    source[0] = re.sub(r"\[([^\]\n]+)\]\(([^)#:\s]+)\)", target, source[0])


def list_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the pages that an index leads to; a page that none leads to is marked as such."""
    if Path(name).name == "README":
        pages = [page for pattern in patterns(name) for page in found(pattern) if page != name]
        source[0] += (
            "\n\n```{toctree}\n:hidden:\n\n" + "\n".join(f"/{p}" for p in pages) + "\n```\n"
        )
    elif not Path(name).with_name("README.md").is_file():
        source[0] = "---\norphan: true\n---\n\n" + source[0]


def patterns(name: str) -> list[str]:
    """Which files the table of contents of an index holds."""
    folder = Path(name).parent
    return SIDEBAR.get(name, [f"{folder}/*.md", f"{folder}/*/README.md"])


def found(pattern: str) -> list[str]:
    """The pages of a pattern, without their suffix."""
    paths = [ROOT / f"{pattern}.md"] if "*" not in pattern else sorted(ROOT.glob(pattern))
    return [str(path.relative_to(ROOT).with_suffix("")) for path in paths if path.is_file()]


def read_sections(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Show `Raises:` as a section. A field's docstring has none, though it may have a colon."""
    if what not in ("attribute", "data"):
        lines[:] = GoogleDocstring(lines, Config(), app, what, name, thing, options).lines()


def make_accessible(app: Sphinx, exception: Exception | None) -> None:
    """Write into each page what `ACCESSIBLE` says."""
    for page in Path(app.outdir).rglob("*.html"):
        text = written = page.read_text()
        for found, meant in ACCESSIBLE.items():
            written = written.replace(found, meant)
        if written != text:
            page.write_text(written)


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx calls this."""
    app.add_lexer("mermaid", TextLexer)  # drawn where the repository is shown, and text here
    app.connect("source-read", open_folders)
    app.connect("source-read", list_pages)
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("build-finished", make_accessible)
    return {"parallel_read_safe": True}
