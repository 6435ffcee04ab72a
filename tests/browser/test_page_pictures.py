"""The documentation's pictures of the page, with the bundled model: `PICTURES=1 .ci/browser -k pictures` takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_browser import ask, opened, wait_longer, wait_over
from page_server import PageServer, get_weather, served_page

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("default"),  # what the driver warns of is its own
    pytest.mark.skipif("PICTURES" not in os.environ, reason="pictures are taken on demand: PICTURES=1"),
]

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
MOST_BYTES = 150 * 1024
SIZE = {"width": 1220, "height": 620}


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    """The bundled model."""
    with served_page(None, tools=[get_weather]) as server:
        yield server


def take(tab: Any, name: str) -> None:
    """A picture of what is shown."""
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / f"{name}.png"
    tab.screenshot(path=str(path), animations="disabled", caret="hide")
    assert path.stat().st_size <= MOST_BYTES


def test_pictures_of_branches(browser: Any, server: PageServer) -> None:
    """Four at once, in mid-stream."""
    with opened(browser, server.url, viewport=SIZE) as tab:
        tab.click("#panel-button")
        tab.fill("[name=temperature]", "0.7")
        tab.fill("[name=seed]", "1")
        tab.click("[data-close=panel]")
        tab.select_option("#copies", "4")
        ask(tab, "Tell me a short story about a fox.")
        for place in range(4):
            wait_longer(tab, 80, place)
        tab.mouse.move(600, 300)
        take(tab, "page-branches")


def test_pictures_of_an_object(browser: Any, server: PageServer) -> None:
    """Growing, beside its schema."""
    with opened(browser, server.url, viewport=SIZE) as tab:
        tab.click("#panel-button")
        tab.fill("[name=temperature]", "0")
        tab.click("#settings details:first-of-type > summary")
        tab.click("#schema-section summary")
        tab.check("[name=use_schema]")
        tab.fill("[name=schema]", json.dumps(PERSON, indent=2))
        ask(tab, "Make a JSON record of this person: name, age. Anna is 31.")
        wait_over(tab)
        tab.wait_for_function("() => document.querySelector('#meter').textContent.includes('0 of 32')")
        take(tab, "page-object")


def test_pictures_of_a_tool(browser: Any, server: PageServer) -> None:
    """Called, with its result and the raw events, in the dark."""
    with opened(browser, server.url, viewport=SIZE, color_scheme="dark") as tab:
        tab.click("#panel-button")
        tab.fill("[name=temperature]", "0")
        tab.click("#tools-section summary")
        tab.check("[value=get_weather]")
        tab.click("[data-close=panel]")
        ask(tab, "What is the weather in Tarnok?")
        wait_over(tab)
        tab.click(".foot-acts >> text=Events")
        tab.wait_for_function("() => document.querySelector('#events-list').textContent.includes('info')")
        tab.wait_for_function("() => document.querySelector('#meter').textContent.includes('0 of 32')")
        take(tab, "page-tool")
