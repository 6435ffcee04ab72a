"""MkDocs' hooks: files outside of docs/ that pages link to become pages; pages that the nav does not name are added.

The README is the site's first page. A Markdown file keeps its path, any other file is shown as code, outside of search.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"(^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<before>\]\()(?P<path>[^)#:\s]+)(?P<after>(?:#[^)\s]*)?\))")
LANGUAGES = {".py": "python", ".ipynb": "json", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml"}


def source_of(path: str) -> str:
    """Where the repository's file `path` stands among the site's sources."""
    if path == "README.md":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.endswith(".md") else f"source/{path}.md"


def path_of(source: str, outside: dict[str, str]) -> str:
    """The repository's file that stands at `source` among the site's sources."""
    return outside.get(source, f"docs/{source}")


def rewritten(markdown: str, replace: Callable[[re.Match[str]], str]) -> str:
    """`markdown` with its links to files replaced, where they stand outside of code."""
    parts = FENCE.split(markdown)
    return "".join(
        # three parts of a split: text, a block of code, its fence
        [LINK.sub(replace, part) if index % 3 == 0 else part for index, part in enumerate(parts) if index % 3 != 2]
    )


def linked(path: str) -> Iterator[str]:
    """The files of the repository that the Markdown file `path` links to."""
    found: list[str] = []

    def note(match: re.Match[str]) -> str:
        found.append(posixpath.normpath(posixpath.join(posixpath.dirname(path), match["path"])))
        return match[0]

    rewritten((ROOT / path).read_text(), note)
    yield from found


def outside_files() -> dict[str, str]:
    """Sources of the site that stand outside of docs/, with their files: what pages link to, over many links too."""
    waiting = ["README.md", *[path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]]
    seen = set(waiting)
    while waiting:
        for path in linked(waiting.pop()):
            if path not in seen and (ROOT / path).is_file():
                seen.add(path)
                waiting += [path] if path.endswith(".md") else []
    return {source_of(path): path for path in sorted(seen) if not path.startswith("docs/")}


def code_page(path: str) -> str:
    """A page that shows the file `path`."""
    language = LANGUAGES.get(Path(path).suffix, "text")
    text = (ROOT / path).read_text().rstrip()
    return f"---\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n`````{language}\n{text}\n`````\n"


OUTSIDE = outside_files()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Pages that the nav does not name are its last section."""
    named = set(_names(config.nav))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    rest = [page for page in pages if page not in named]
    rest += [source for source, path in OUTSIDE.items() if source not in named and path.endswith(".md")]
    if rest and config.nav is not None:
        config.nav.append({"More": rest})
    return config


def _names(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _names(part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Files outside of docs/ that are linked to, as pages."""
    for source, path in OUTSIDE.items():
        content = (ROOT / path).read_text() if path.endswith(".md") else code_page(path)
        files.append(File.generated(config, source, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links lead to where files stand in the site."""
    source = page.file.src_uri
    path = path_of(source, OUTSIDE)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["path"]))
        relative = posixpath.relpath(source_of(target), posixpath.dirname(source) or ".")
        return f"{match['before']}{relative}{match['after']}"

    return rewritten(markdown, moved)
