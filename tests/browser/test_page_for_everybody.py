"""What is in the way of people, found by axe: nothing of the page, light or dark, in any state of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import ask, axe_source, opened, wait_longer, wait_over
from page_server import WEATHER_CALL, PageServer, Speech, get_weather, served_page, slow

from greenroom import Reply

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # what the driver warns of is its own

CODE = "So:\n```python\nprint(1)\n```\nThat is it."
PERSON = '{"name": "Ann", "age": 31, "hobbies": ["chess"]}'


@pytest.fixture(scope="module")
def axe() -> str:
    """Its script."""
    return axe_source()


@pytest.fixture(scope="module")
def server(speech: Speech) -> Iterator[PageServer]:
    """One for all tests."""
    with served_page(slow(speech, 0.002), tools=[get_weather]) as server:
        yield server


def check(tab: Any, axe: str) -> None:
    """Nothing is in anybody's way."""
    tab.evaluate(axe)
    found = tab.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    told = [
        (each["impact"], each["id"], [node["target"] for node in each["nodes"]][:5]) for each in found["violations"]
    ]
    assert told == []
    assert len(found["passes"]) > 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_in_nobody_s_way(browser: Any, server: PageServer, speech: Speech, axe: str, scheme: str) -> None:
    """Empty, with its sides open, with code, calls, thoughts, objects, failures, branches, while it streams, narrow."""
    with opened(browser, server.url, color_scheme=scheme, reduced_motion="reduce") as tab:
        check(tab, axe)
        for each in ("#panel-button", "#schema-section summary", "#tools-section summary"):
            tab.click(each)
        check(tab, axe)
        tab.check("[value=get_weather]")
        speech.once, speech.other = [f"<think>Hm.</think>{WEATHER_CALL}"], CODE
        ask(tab, "How is the weather?")
        wait_over(tab)
        speech.other = PERSON
        tab.check("[name=use_schema]")
        tab.click(".foot-acts >> text=Events")
        tab.click("text=Edit")
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".lane >> nth=1")
        wait_over(tab, 2)
        assert tab.locator(".lane .object").count() == 1
        tab.fill("[name=top_p]", "3")
        ask(tab, "This fails.")
        tab.wait_for_selector(".fault")
        tab.click("text=Edit")
        check(tab, axe)
        tab.fill("[name=top_p]", "")
        tab.uncheck("[name=use_schema]")
        tab.click("[data-close=panel]")
        tab.click("[data-close=events]")
        speech.other = Reply("On and on. ", repeat=True)
        tab.click("#new-chat")
        tab.set_viewport_size({"width": 360, "height": 640})
        tab.select_option("#copies", "2")
        ask(tab, "Talk.")
        wait_longer(tab, 10, 1)
        check(tab, axe)
        tab.click("#stop")
        wait_over(tab, 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_key_s_dialog_is_in_nobody_s_way(browser: Any, axe: str, scheme: str) -> None:
    """It has a name, a label, and the focus."""
    with (
        served_page(slow(Speech()), keys=["secret"]) as server,
        opened(browser, server.url, ready="#key-dialog[open]", ignored="401", color_scheme=scheme) as tab,
    ):
        check(tab, axe)
