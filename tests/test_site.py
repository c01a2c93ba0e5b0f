"""The documentation site: it builds without warnings, its links lead somewhere, and it loads nothing from other hosts."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import edge_siamese

ROOT = Path(__file__).parent.parent
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}
"""What a browser fetches for a page; of links, all but the address of the page itself."""


class Page(HTMLParser):
    """The links, files and anchors of a page of the site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if values.get("rel") != "canonical":
            self.loaded += [values[name] for loading, name in LOADED if tag == loading and name in values]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_a_page_of_the_site_is_made_of_each_document(pages: dict[Path, Page], site: Path) -> None:
    made = {path.relative_to(site).as_posix() for path in pages}
    documents = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    expected = {path.with_suffix(".html").as_posix() for path in documents}
    assert made >= expected | {"index.html", "CHANGELOG.html", "CONTRIBUTING.html", "benchmarks/index.html"}


def test_links_of_the_site_lead_to_its_files_and_anchors(pages: dict[Path, Page], site: Path) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the address that the site will have
            continue
        for link in page.links:
            url = urlsplit(link)
            if url.scheme:
                assert url.scheme in ("https", "http", "mailto"), link
                continue
            target = Path(os.path.normpath(path.parent / unquote(url.path))) if url.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if url.fragment and target in pages:
                anchors = pages[target].anchors | {"__skip", "__toc"}
                assert unquote(url.fragment) in anchors, f"{path.relative_to(site)} links to {link}"


def test_files_that_pages_link_to_are_published(pages: dict[Path, Page], site: Path) -> None:
    assert "firmware_configs/install.sh.txt" in pages[site / "device.html"].links
    assert "index.html" in pages[site / "device.html"].links
    script = (ROOT / "firmware_configs" / "install.sh").read_bytes()
    assert (site / "firmware_configs" / "install.sh.txt").read_bytes() == script


def test_the_site_loads_nothing_from_other_hosts(pages: dict[Path, Page], site: Path) -> None:
    loaded = {(path.name, file) for path, page in pages.items() for file in page.loaded}
    assert ("index.html", "stylesheets/site.css") in loaded
    assert {(name, file) for name, file in loaded if urlsplit(file).netloc} == set()
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"@import|@font-face|url\([\"']?(?:https?:)?//", text) == [], style.name


def test_the_reference_has_the_whole_public_api(pages: dict[Path, Page], site: Path) -> None:
    names = {f"edge_siamese.{name}" for name in edge_siamese.__all__}
    assert names <= pages[site / "python.html"].anchors
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"] for entry in index["docs"]}
    assert {f"python.html#{name}" for name in names} <= found


def test_a_broken_link_anchor_or_navigation_is_an_error(tmp_path: Path) -> None:
    for path in ROOT.glob("[!.]*"):
        if path.name not in ("build", "docs", "mkdocs.yml"):
            (tmp_path / path.name).symlink_to(path)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs" / "device.md"
    page.write_text(
        page.read_text() + "\n[a](nowhere.md) [b](../firmware_configs/nothing.sh) [c](mqtt.md#none)\n"
    )
    (tmp_path / "docs" / "new.md").write_text("# New\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for problem in (
        'not included in the "nav" configuration:\n  - docs/new.md',
        "'docs/device.md' contains a link 'nowhere.md', but the target 'docs/nowhere.md' is not found",
        "'docs/device.md' contains a link '../firmware_configs/nothing.sh', but the target",
        "'docs/device.md' contains a link 'mqtt.md#none', but the doc 'docs/mqtt.md' does not contain an anchor",
    ):
        assert problem in done.stderr
    assert "Aborted with 4 warnings" in done.stdout + done.stderr
