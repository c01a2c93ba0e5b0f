"""MkDocs hook: pages of the documentation site have the paths of their files, so links that work on GitHub work there too.

MkDocs knows `docs/device.md` and `README.md` by these names and publishes them as `device.html` and `index.html`. A file
that a page links to, such as a script, is published too. Links, anchors and the navigation are checked by MkDocs itself.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
TEXT_SUFFIXES = {"", ".sh", ".py", ".toml", ".service"}
"""Files that browsers would download: they are published as .txt."""


class ListIndentation(Extension):
    """Continues an item of a list at three spaces, as `1. ` needs on GitHub; Python-Markdown wants four."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.tab_length = 3
        md.build_parser()


def slugify(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> None:
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify
    extensions: list[Any] = config.markdown_extensions
    extensions.insert(0, ListIndentation())  # before what the others add to the parser


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Name the files of docs/ by their paths in the repository; add the pages at its root, and what pages link to."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix() + "/"
    site = Files([file for file in files if file.src_dir != config.docs_dir])

    def publish(path: str) -> None:
        if site.get_file_from_path(path) or not (root / path).is_file():
            return
        file = File(path, str(root), config.site_dir, config.use_directory_urls)
        text = ".txt" if Path(path).suffix in TEXT_SUFFIXES else ""
        file.dest_uri = file.dest_uri.removeprefix(docs) + text
        site.append(file)
        if file.is_documentation_page():
            for target in LINK.findall(file.content_string):
                linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
                if not linked.startswith(".."):
                    publish(linked)

    for file in files:
        if file.src_dir == config.docs_dir:
            publish(docs + file.src_uri)
    for path in (*(path.name for path in sorted(root.glob("*.md"))), config.theme["logo"]):
        publish(path)
    return site


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Uncomment the references to Python objects, which GitHub would show as text."""
    return re.sub(r"<!--\n(:::.*?)\n-->", r"\1", markdown, flags=re.DOTALL)
