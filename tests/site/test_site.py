"""The documentation as a site: it has every public name, and needs nothing from outside. Skips without MkDocs."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import greenroom

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the dependency group docs")

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
"""Elements that a browser loads something for, and where they say what."""
INERT = {"https://unpkg.com/mermaid@11/dist/mermaid.min.js", "https://unpkg.com/resize-observer-polyfill"}
"""Files that the theme's scripts name: one for diagrams of Mermaid, of which there are none, one in a comment."""


class Page(HTMLParser):
    """The ids, links, resources and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.classes: set[str] = set()
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Ids and classes of any element, and where a link or a resource leads."""
        given = {name: value or "" for name, value in attrs}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        self.classes.update(given.get("class", "").split())
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in RESOURCES and RESOURCES[tag] in given:
            self.resources.append(given[RESOURCES[tag]])

    def handle_data(self, data: str) -> None:
        """Text, that of scripts too."""
        self.text += data


@pytest.fixture(scope="session")
def site() -> Path:
    """Built strictly, where `mkdocs build` puts it."""
    build(ROOT / "site", ROOT / "mkdocs.yml")
    return ROOT / "site"


def build(folder: Path, config: Path) -> None:
    """The site of `config` in `folder`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    """All pages by path."""
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def plain(text: str) -> str:
    """Text without markup, quotes and differences of white space."""
    return " ".join(re.sub(r"[`*\"']|&quot;", "", text).split())


def test_the_reference_has_every_public_name(pages: dict[Path, Page]) -> None:
    """With what its docstring says first: griffe reads the sources, and these names are those of the import."""
    reference = [page for path, page in pages.items() if path.parent.name == "reference"]
    texts = " ".join([plain(page.text) for page in reference])
    ids = {anchor for page in reference for anchor in page.ids}
    missing = []
    for name in set(greenroom.__all__) - {"blocking", "testing"}:
        home = "greenroom.errors" if name in greenroom.errors.__all__ else "greenroom"
        value = getattr(importlib.import_module("greenroom"), name)
        said = inspect.getdoc(value) if inspect.isclass(value) or inspect.isfunction(value) else None
        first = plain((said or "").split("\n\n")[0].split("\n")[0])
        if f"{home}.{name}" not in ids or first not in texts:
            missing.append((name, first))
    assert missing == []


def test_a_method_s_contract_is_in_the_reference(pages: dict[Path, Page]) -> None:
    """Public methods, too."""
    ids = {anchor for path, page in pages.items() if path.parent.name == "reference" for anchor in page.ids}
    methods = [name for name in vars(greenroom.Runtime) if not name.startswith("_")]
    assert len(methods) > 20
    assert [name for name in methods if f"greenroom.Runtime.{name}" not in ids] == []


def local(link: str) -> bool:
    """Whether a link stays in the site."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|//", link)


def test_links_within_the_site_resolve(pages: dict[Path, Page], site: Path) -> None:
    """Their anchors too."""
    broken = []
    count = 0
    for path, page in pages.items():
        for link in [*page.links, *page.resources]:
            target, anchor = urldefrag(link)
            if not local(link) or path.name == "404.html":
                continue
            count += 1
            found = (path.parent / unquote(target)).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file() or (anchor and found in pages and unquote(anchor) not in pages[found].ids):
                broken.append((path.relative_to(site).as_posix(), link))
    assert count > 1000
    assert broken == []


def resources_of_styles(site: Path) -> Iterator[str]:
    """What the style sheets load."""
    for path in site.rglob("*.css"):
        text = path.read_text()
        yield from (found.strip("\"' ") for found in re.findall(r"url\(([^)]*)\)", text))
        yield from re.findall(r"@import\s+[\"']([^\"']+)", text)


def test_nothing_is_loaded_from_outside(pages: dict[Path, Page], site: Path) -> None:
    """Neither by a page nor by a style; scripts name what they would load for diagrams alone, and there are none."""
    loaded = [resource for page in pages.values() for resource in page.resources]
    loaded += resources_of_styles(site)
    assert len(loaded) > 100
    assert [resource for resource in loaded if not local(resource) and not resource.startswith("data:")] == []
    scripts = [path.read_text() for path in site.rglob("*.js")]
    named = {url for text in scripts for url in re.findall(r"https?://[\w.-]+/[\w./@-]+\.js\b", text)}
    named |= {url for text in scripts for url in re.findall(r"https?://(?:unpkg\.com|cdn[\w.-]*)/[\w./@-]+", text)}
    assert {url for url in named if "github.com" not in url} <= INERT
    assert [path for path, page in pages.items() if "mermaid" in page.classes] == []


def test_search_finds_pages_and_the_reference(site: Path) -> None:
    """Its index is a file of the site; code pages are not in it."""
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    written = {
        path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert written - places == set()
    assert [place for place in places if place.startswith("source/")] == []
    assert any(entry["location"].endswith("#greenroom.Runtime.drain") for entry in index["docs"])


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    """So that a green build says something."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# One\n\n[two](two.md)\n")
    config = tmp_path / "mkdocs.yml"
    settings = (ROOT / "mkdocs.yml").read_text().partition("validation:")[2].partition("\nplugins:")[0]
    config.write_text(f"site_name: x\nvalidation:{settings}\n")
    with pytest.raises(AssertionError, match=r"two\.md"):
        build(tmp_path / "site", config)
