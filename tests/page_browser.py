"""A real Chromium: Debian's, or what CHROMIUM names. Whoever has none skips."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

__all__ = ["ask", "axe_source", "launched", "length", "opened", "wait_longer", "wait_over"]

_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)
_MILLISECONDS = 20_000


@contextmanager
def launched() -> Iterator[Any]:
    """The browser. Skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: see .ci/browser")
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium here: install it, or name it in CHROMIUM")
    arguments = [*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # it has no sandbox for root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, url: str, *, ready: str = ".welcome", ignored: str = "^$", **options: Any) -> Iterator[Any]:
    """A tab of its own context. It complains of nothing but `ignored`: no errors, nothing against the page's policy."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.set_default_timeout(_MILLISECONDS)
    try:
        tab = context.new_page()
        complaints: list[str] = []
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda each: complaints.append(each.text) if each.type in ("error", "warning") else None)
        tab.goto(url)
        tab.wait_for_selector(ready)
        yield tab
        assert [each for each in complaints if not re.search(ignored, each)] == []
    finally:
        context.close()


def axe_source() -> str:
    """The script of axe, which comes in a wheel."""
    module = pytest.importorskip("axe_playwright_python", reason="axe is not installed: see .ci/browser")
    files = import_module("importlib.resources").files(module)
    text: str = (files / "axe.min.js").read_text()
    return text


def ask(tab: Any, question: str) -> None:
    """Type it, as a user does."""
    tab.fill("#question", question)
    tab.press("#question", "Enter")


def wait_over(tab: Any, count: int = 1) -> None:
    """Return once `count` answers are shown, and none runs."""
    tab.wait_for_function(
        "n => document.querySelectorAll('.foot-acts').length >= n && !document.querySelector('.running')",
        arg=count,
    )


def length(tab: Any, place: int = 0) -> int:
    """Characters that an answer has by now."""
    found: int = tab.evaluate("n => document.querySelectorAll('.answer')[n].textContent.length", place)
    return found


def wait_longer(tab: Any, than: int, place: int = 0) -> None:
    """Return once an answer has more characters."""
    tab.wait_for_function(
        "([n, most]) => document.querySelectorAll('.answer')[n]?.textContent.length > most", arg=[place, than]
    )
