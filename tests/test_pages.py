"""What every page of the documentation keeps to: links lead somewhere, tables are complete, words are spelt."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import greenroom
from greenroom import cli, errors

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.md"))
PAGES = [
    path
    for path in [*sorted(ROOT.glob("*.md")), *DOCS, ROOT / "examples" / "README.md", *BENCHMARKS]
    if path.name != "LICENSE.md"
]
FENCE = re.compile(r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    """A page's path in the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """What links may name behind a page's `#`: its headings, as the repository's host and the site spell them."""
    found: set[str] = set()
    counts: Counter[str] = Counter()
    for heading in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return found


def broken_links(path: Path) -> Iterator[str]:
    """A page's links into the repository that lead nowhere."""
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", prose(path)):
        target, _, anchor = (link[0] or link[1]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = (path.parent / target).resolve() if target else path
        is_there = found.is_file() and found.is_relative_to(ROOT)
        if not is_there or (anchor and found.suffix == ".md" and anchor not in anchors(found)):
            yield f"{target}#{anchor}" if anchor else target


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_within_the_repository_resolve(path: Path) -> None:
    """To files, not folders, and to headings."""
    assert list(broken_links(path)) == []


def test_a_broken_link_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, a heading that is not there, a folder; not what stands in code, nor what is right."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.md").write_text("# One thing: `two`\n")
    page = tmp_path / "page.md"
    links = ["gone.md", "other.md", "other.md#one-thing-two", "other.md#three", "folder", "https://example.com/x"]
    page.write_text("\n".join([f"[a]({link})" for link in links]) + "\n```md\n[a](code.md)\n```\n")
    assert list(broken_links(page)) == ["gone.md", "other.md#three", "folder"]


def test_words_are_spelt() -> None:
    """As codespell knows them."""
    command = [sys.executable, "-m", "codespell_lib", *[str(path) for path in PAGES]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_table_of_errors_has_every_error() -> None:
    """Once, each with what to do, under the base that it says."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", page, re.MULTILINE)
    assert Counter(name for name, _, _ in rows) == Counter(errors.__all__)
    for section in page.split("\n## ")[1:]:
        base = re.search(r"Each(?: but `(\w+)`)? is an? `(\w+)`", section)
        if base is None:
            continue
        for name in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE):
            assert (name == base[1]) != issubclass(getattr(errors, name), getattr(errors, base[2])), name


def test_the_reference_names_every_public_name_once() -> None:
    """Where it stands is for the pages to say; that it stands somewhere is not."""
    listed = [name for path in DOCS for name in re.findall(r"^::: ([\w.]+)$", path.read_text(), re.MULTILINE)]
    assert "greenroom.errors" in listed
    names = Counter(name.removeprefix("greenroom.") for name in listed if name.count(".") == 1)
    del names["errors"]
    assert names == Counter(set(greenroom.__all__) - set(errors.__all__) - {"blocking", "testing"})


LONGEST = 250


@pytest.mark.parametrize("path", [*DOCS, *BENCHMARKS], ids=named)
def test_a_page_is_short(path: Path) -> None:
    """Longer ones are cut along a concept."""
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", [path for path in DOCS if path.parent.name != "reference"], ids=named)
def test_a_page_begins_with_what_it_is_about_and_an_example(path: Path) -> None:
    """A title, a paragraph of plain prose, and soon a program or a command; the pages of the reference are lists."""
    title, first, *_ = path.read_text().split("\n\n")
    assert re.fullmatch(r"# [^\n]+", title)
    assert len(first.split()) >= 20
    assert re.match(r"[A-Za-z`\[]", first), "a list, a table or code stands in front of the first paragraph"
    beginning = path.read_text().splitlines()[:BEGINNING]
    assert {"```python", "```sh"} & set(beginning)


BEGINNING = 25
"""Lines of a page within which its first example begins."""


def commands() -> list[tuple[str, str]]:
    """Every command line of greenroom's that a page has: the page, the line."""
    found = []
    for path in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [(named(path), line) for line in lines if re.search(r"\bgreenroom [a-z]", line)]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_of_a_page_is_one(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arguments are known to the command line of now; nothing is run."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello!")))
    words = shlex.split(line.rsplit("|", maxsplit=1)[-1], comments=True)
    start = max(place for place, word in enumerate(words) if word.rpartition("/")[2] == "greenroom")
    options = cli._parser().parse_args(words[start + 1 :])
    assert options.command == words[start + 1], page


def test_the_readme_is_a_screen_and_a_half() -> None:
    """What is more has a page."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 75


def test_files_to_begin_in_exist() -> None:
    """Every file and folder that the page for contributors names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = set(re.findall(r"`([\w.]+/[\w./]*|\w+\.(?:yml|toml))`", text))
    assert len(paths) > 30
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_forms_of_reports_ask_for_what_doctor_says() -> None:
    """Required where something is wrong; and nobody is asked anything without a form."""
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = {path.stem: path.read_text() for path in folder.glob("*.yml") if path.stem != "config"}
    assert set(forms) == {"fault", "idea", "model", "slow"}
    for name, form in forms.items():
        asked = form.partition("id: doctor\n")[2]
        assert "`greenroom doctor" in asked
        assert ("required: true" in asked) == (name != "idea")
    assert "blank_issues_enabled: false" in (folder / "config.yml").read_text()


def test_the_picture_says_what_it_shows() -> None:
    """In words too, and it is readable on a light and on a dark page."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"!\[([^\]]{60,})\]\((docs/images/streams\.svg)\)", readme)
    assert found is not None
    picture = (ROOT / found[2]).read_text()
    assert "prefers-color-scheme: dark" in picture
    assert re.search(r"<title[^>]*>.+</title>", picture)
    assert re.search(r"<desc[^>]*>.+</desc>", picture)
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


def test_the_site_lists_a_page_once() -> None:
    """Those that it does not list stand at its end by themselves."""
    listed = Counter(re.findall(r"^ +- (?:\w+: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert len(listed) > 30
    assert [page for page, count in listed.items() if count > 1] == []
    outside = {"index.md", "examples/README.md", "CONTRIBUTING.md", *map(named, BENCHMARKS)}
    assert [page for page in listed if page not in outside and not (ROOT / "docs" / page).is_file()] == []
