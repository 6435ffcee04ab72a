"""The page in a real Chromium: what a user does, and what a hostile model cannot do."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import ask, length, opened, wait_longer, wait_over
from page_server import WEATHER_CALL, PageServer, Speech, get_weather, served_page, slow

from greenroom import Reply
from greenroom.actors.scheduler.scheduler import Scheduler

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("default")]  # what the driver warns of is its own

ENDLESS = Reply("On and on it goes. ", repeat=True)
PERSON = '{"name": "Ann Lind", "age": 31, "hobbies": ["chess", "rowing"]}'
HOSTILE = (
    "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>\n"
    "<a href=\"javascript:document.title='hit'\">a</a> [b](javascript:alert(1)) ![c](http://127.0.0.1:9/leak.png)\n"
    "```html\n<iframe srcdoc=\"<script>parent.document.title='hit'</script>\"></iframe>\n```\n"
    '<svg onload="document.title=\'hit\'"></svg> <b id="question">bold</b> ${document.title="hit"} {{7*7}} \u202e \x07'
)


@pytest.fixture(scope="module")
def server(speech: Speech) -> Iterator[PageServer]:
    """One for all tests that leave it as it was."""
    with served_page(slow(speech, 0.004), tools=[get_weather]) as server:
        yield server


@pytest.fixture(autouse=True)
def _quiet(speech: Speech, request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves no row behind."""
    speech.other, speech.by_part = "Hello there.", {}
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").wait_until_idle()


def test_a_question_is_typed_and_its_answer_streams(browser: Any, server: PageServer, speech: Speech) -> None:
    """It grows before it is over, the focus stays where one types, and those who listen are told of it once."""
    speech.other = "A fox lived at the edge of a quiet wood, and nobody knew. " * 3
    with opened(browser, server.url) as tab:
        with server.after(20):
            ask(tab, "Tell me a story.")
            wait_longer(tab, 5)
            assert length(tab) < len(speech.other)
            assert tab.get_attribute(".answer", "aria-busy") == "true"
        wait_over(tab)
        assert tab.inner_text(".answer").strip() == speech.other.strip()
        assert tab.get_attribute(".answer", "aria-busy") == "false"
        assert tab.evaluate("document.activeElement.id") == "question"
        assert tab.input_value("#question") == ""
        assert tab.inner_text("#announcer").startswith("Answer: A fox lived")
        assert "tokens/s" in tab.inner_text(".turn-foot")


@pytest.mark.parametrize("way", ["its button", "the question's button", "Escape"])
def test_stop_means_that_the_row_is_gone(browser: Any, server: PageServer, speech: Speech, way: str) -> None:
    """What was said stays, and does not grow any more."""
    speech.other = ENDLESS
    with opened(browser, server.url) as tab:
        ask(tab, "Talk.")
        wait_longer(tab, 20)
        assert server.num_rows == 1
        if way == "Escape":
            tab.keyboard.press("Escape")
        else:
            tab.click(".turn-foot >> text=Stop" if way == "its button" else "#stop")
        wait_over(tab)
        server.wait_until_idle()
        said = tab.inner_text(".answer")
        assert len(said) >= 20
        assert "stopped" in tab.inner_text(".turn-foot")
        assert tab.is_hidden("#stop")
        speech.other = "And then?"
        ask(tab, "Go on.")
        wait_over(tab, 2)
        assert tab.inner_text(".answer >> nth=0") == said


def test_an_edited_turn_is_a_branch_beside_the_first(browser: Any, server: PageServer, speech: Speech) -> None:
    """Both can be gone on from; what they share is not shown twice, and the other one can be shown in its place."""
    speech.by_part = {"red": "Red it is.", "blue": "Blue it is.", "first": "The first.", "more": "More."}
    with opened(browser, server.url) as tab:
        ask(tab, "first")
        wait_over(tab)
        ask(tab, "red")
        wait_over(tab, 2)
        tab.click(".turn >> nth=1 >> text=Edit")
        assert tab.evaluate("document.activeElement.tagName") == "TEXTAREA"
        tab.keyboard.press("Control+A")
        tab.keyboard.type("blue")
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".lane >> nth=1")
        wait_over(tab, 3)
        left, right = tab.locator(".lane").nth(0), tab.locator(".lane").nth(1)
        assert "Red it is." in left.inner_text()
        assert "Blue it is." in right.inner_text()
        assert "1 turn as in Branch 1" in right.inner_text()
        assert "The first." not in right.inner_text()
        right.get_by_text("1 turn as in Branch 1").click()
        assert "The first." in right.inner_text()
        ask(tab, "more")
        wait_over(tab, 5)
        assert "More." in right.inner_text()
        assert "More." not in left.inner_text()
        left.get_by_label("The next branch").click()
        assert "Blue it is." in left.inner_text()
        assert "More." in left.inner_text()
        left.get_by_label("The branch before").last.click()
        right.get_by_text("Close", exact=True).click()
        assert tab.locator(".lane").count() == 1
        assert "Red it is." in tab.inner_text(".lane")


def test_an_answer_is_made_again_in_its_place_or_beside_it(browser: Any, server: PageServer, speech: Speech) -> None:
    """Regenerate, and Branch; both keep what was there before."""
    with opened(browser, server.url) as tab:
        speech.other = "One."
        ask(tab, "Say something.")
        wait_over(tab)
        speech.other = "Two."
        tab.click("text=Regenerate")
        tab.wait_for_selector("text=2/2")
        wait_over(tab)
        assert tab.inner_text(".answer").strip() == "Two."
        speech.other = "Three."
        tab.click(".foot-acts >> text=Branch")
        tab.wait_for_selector(".lane >> nth=1")
        wait_over(tab, 2)
        assert [each.strip() for each in tab.locator(".answer").all_inner_texts()] == ["Two.", "Three."]
        tab.locator(".lane").nth(0).get_by_label("The branch before").click()
        assert tab.inner_text(".answer >> nth=0").strip() == "One."


def test_two_tabs_have_a_chat_each(browser: Any, server: PageServer, speech: Speech) -> None:
    """One that is closed takes its rows with it, and no other's."""
    speech.other = ENDLESS
    with opened(browser, server.url) as one:
        with opened(browser, server.url) as other:
            ask(one, "mine")
            ask(other, "yours")
            wait_longer(one, 10)
            wait_longer(other, 10)
            assert server.num_rows == 2
            assert "yours" not in one.inner_text("#lanes")
        one.wait_for_function("() => document.querySelector('#meter').textContent.includes('1 of 32')")
        assert server.num_rows == 1
        wait_longer(one, length(one) + 10)
        one.click("#stop")
        wait_over(one)


def test_a_reload_in_mid_stream_leaves_no_row_and_loses_no_text(
    browser: Any, server: PageServer, speech: Speech
) -> None:
    """The page shows what was said by then, as stopped, and can be gone on with."""
    speech.other = ENDLESS
    with opened(browser, server.url) as tab:
        ask(tab, "Talk.")
        wait_longer(tab, 30)
        before = tab.inner_text(".answer").strip()
        tab.reload()
        tab.wait_for_selector(".turn")
        server.wait_until_idle()
        wait_over(tab)
        assert tab.inner_text(".answer").strip().startswith(before[:30])
        assert "stopped" in tab.inner_text(".turn-foot")
        speech.other = "Fine."
        ask(tab, "Go on.")
        wait_over(tab, 2)
        assert tab.inner_text(".answer >> nth=1").strip() == "Fine."


def test_eight_answers_stream_side_by_side(browser: Any, server: PageServer, speech: Speech) -> None:
    """Each is a row of the batch, and one press stops all."""
    speech.other = ENDLESS
    with opened(browser, server.url) as tab:
        tab.select_option("#copies", "8")
        ask(tab, "Talk.")
        for place in range(8):
            wait_longer(tab, 10, place)
        assert server.num_rows == 8
        tab.wait_for_function("() => document.querySelector('#meter').textContent.includes('8 of 32')")
        assert tab.locator(".cells .busy").count() == 8
        assert tab.inner_text("#stop") == "Stop all 8"
        tab.click("#stop")
        wait_over(tab, 8)
        server.wait_until_idle()
        speech.other = "Done."
        tab.check("#all")
        ask(tab, "All of you.")
        wait_over(tab, 16)


def test_an_object_grows_field_by_field(browser: Any, server: PageServer, speech: Speech) -> None:
    """Fields that have not come are there already; at the end all are whole, after a reload too."""
    speech.other = PERSON
    with opened(browser, server.url) as tab:
        with server.after(15):
            tab.click("text=Make up a person")
            tab.wait_for_selector(".object .growing")
            assert tab.locator(".object .missing").count() > 0
        wait_over(tab)
        rows = tab.locator(".object tbody tr")
        assert rows.first.inner_text().split()[:3] == ["name", "Ann", "Lind"]
        assert tab.locator(".object tr.whole").count() == rows.count() == 5
        tab.reload()
        tab.wait_for_selector(".object tr.whole >> nth=4")


def test_a_schema_that_is_no_json_is_told_at_its_field(browser: Any, server: PageServer) -> None:
    """Nothing is sent, and the question is still there."""
    with opened(browser, server.url) as tab:
        tab.click("#panel-button")
        tab.click("#schema-section summary")
        tab.check("[name=use_schema]")
        tab.fill("[name=schema]", "{")
        ask(tab, "Hi")
        tab.wait_for_selector("[name=schema][aria-invalid=true]")
        assert "JSON" in tab.inner_text("#schema-error")
        assert tab.input_value("#question") == "Hi"
        assert tab.locator(".turn").count() == 0


def test_tools_are_run_or_answered_by_typing(browser: Any, server: PageServer, speech: Speech) -> None:
    """The app's give a result by themselves; the user's wait for one."""
    with opened(browser, server.url) as tab:
        tab.click("#panel-button")
        tab.click("#tools-section summary")
        tab.check("[value=get_weather]")
        speech.once, speech.other = [WEATHER_CALL, f"<think>So be it.</think>{WEATHER_CALL}"], "It is clear."
        ask(tab, "How is the weather?")
        wait_over(tab)
        assert tab.locator(".call").count() == 2
        assert tab.inner_text(".answer").endswith("It is clear.")
        assert "It is clear in Oslo." in tab.inner_text(".call")
        tab.uncheck("[value=get_weather]")
        tab.click("#tools-example")
        speech.once = [WEATHER_CALL]
        ask(tab, "Which clothes?")
        tab.wait_for_selector("form.results")
        speech.other = "Take a coat."
        tab.fill("form.results textarea", "It rains.")
        tab.click("text=Give the result")
        wait_over(tab, 3)
        assert tab.locator("form.results").count() == 0
        assert tab.inner_text(".bubble >> nth=2") == "It rains."
        assert tab.inner_text(".answer >> nth=2").strip() == "Take a coat."


def test_events_are_shown_as_they_came(browser: Any, server: PageServer, speech: Speech) -> None:
    """A line each, with a seed that no double holds."""
    seeds: list[int] = []
    speech.asked = seeds
    with opened(browser, server.url) as tab:
        for count in itertools.count(1):
            ask(tab, "Hi")
            wait_over(tab, count)
            if seeds[-1] > 2**53:
                break
        tab.click(".foot-acts >> text=Events >> nth=-1")
        tab.wait_for_function("() => document.querySelector('#events-list').textContent.includes('info')")
        lines = tab.inner_text("#events-list").splitlines()
        assert lines[0].startswith('{"type":"chunk"')
        (seed,) = re.findall(r'"seed":(\d+)[,}]', lines[-1])
        assert int(seed) == seeds[-1]
        assert "events" in tab.inner_text("#events-note")
        tab.keyboard.press("Tab")
        tab.focus("#events-list")
        tab.keyboard.press("Escape")
        assert tab.is_hidden("#events")
        assert tab.evaluate("document.activeElement.id") == "events-button"


def test_what_a_hostile_model_writes_is_text(browser: Any, server: PageServer, speech: Speech) -> None:
    """In answers, thoughts, calls, objects, questions: no element is made of it, nothing runs, nothing is fetched."""
    speech.other = f"<think>{HOSTILE}</think>{HOSTILE}"
    with opened(browser, server.url) as tab:
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("dialog", lambda dialog: pytest.fail(dialog.message))
        ask(tab, HOSTILE)
        wait_over(tab)
        shown = tab.inner_text("#lanes")
        assert "<img src=x onerror=" in shown
        assert "<iframe srcdoc=" in shown
        assert tab.title() == "greenroom"
        assert tab.locator("#lanes :is(img, script, iframe, svg, a, b, object, embed, style, link)").count() == 0
        assert {url.removeprefix(server.url).split("/")[0] for url in asked} == {"page"}
        speech.other = (
            '{"name": "<img src=x onerror=alert(1)>", "age": 1, "hobbies": ["</td><script>alert(1)</script>"]}'
        )
        tab.click("#new-chat")
        tab.click("text=Make up a person")
        wait_over(tab)
        assert "<img src=x" in tab.inner_text(".object")
        assert tab.locator("#lanes :is(img, script)").count() == 0


def test_the_policy_would_hold_if_the_page_were_wrong(browser: Any, server: PageServer) -> None:
    """No string becomes HTML, no script and no picture of another place is loaded."""
    with opened(browser, server.url, ignored="TrustedHTML|Content Security Policy") as tab:
        refused = tab.evaluate("""() => {
            try { document.body.innerHTML = '<b>x</b>'; return 'taken'; } catch (error) { return error.name; }
        }""")
        assert refused == "TypeError"
        loaded = tab.evaluate("""() => new Promise(resolve => {
            const image = new Image();
            image.onload = () => resolve('loaded');
            image.onerror = () => resolve('refused');
            image.src = 'http://127.0.0.1:9/x.png';
        })""")
        assert loaded == "refused"
        assert tab.locator("b").count() == 0


def test_text_is_shown_whole_however_it_comes(browser: Any, server: PageServer) -> None:
    """In one piece or cut anywhere: the same elements, and no character but fences is lost."""
    draw = random.Random(7)  # noqa: S311 - a test's
    pieces = ["a", "b c", "\n", "\n\n", "```", "```py", "~~~", "``", "`", "  ```", "<b>", "é", "x" * 900, "\n```\n"]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 25))) for _ in range(400)]
    cuts = [sorted(draw.sample(range(len(text) + 1), min(5, len(text)))) for text in texts]
    with opened(browser, server.url) as tab:
        found = tab.evaluate(
            """async ([texts, cuts]) => {
                const { TextWriter } = await import('/page/text.js');
                const show = (pieces) => {
                    const home = document.createElement('div'), writer = new TextWriter(home);
                    for (const piece of pieces) writer.write(piece);
                    writer.finish();
                    return [...home.querySelectorAll('.prose, code')].map((each) => [each.tagName, each.textContent]);
                };
                return texts.map((text, at) => {
                    const ends = [0, ...cuts[at], text.length];
                    return [show([text]), show(ends.slice(1).map((end, place) => text.slice(ends[place], end)))];
                });
            }""",
            [texts, cuts],
        )
    for text, both in zip(texts, found, strict=True):
        for shown in both:
            assert joined(shown) == blocks(text), text


def blocks(text: str) -> list[tuple[str, str]]:
    """What a text comes to, by its lines: prose without the blank lines around it, and code."""
    found, fence, lines = [("DIV", "")], "", text.split("\n")
    for place, line in enumerate(lines):
        is_whole = place < len(lines) - 1
        match = re.fullmatch(r" {0,3}(`{3,}|~{3,})([^`]*)", line)
        turns = match is not None and (not fence or (match[1].startswith(fence) and not match[2].strip()))
        if turns and match is not None and (is_whole or fence):
            fence = "" if fence else match[1]
            found.append(("CODE" if fence else "DIV", ""))
        else:
            found[-1] = found[-1][0], found[-1][1] + line + "\n" * is_whole
    prose = [(tag, part.lstrip("\n") if tag == "DIV" else part) for tag, part in found]
    last = len(prose) - 1
    ends = [(tag, part.rstrip("\n") if tag == "DIV" and at < last else part) for at, (tag, part) in enumerate(prose)]
    return [(tag, part) for tag, part in ends if part or tag == "CODE"]


def joined(shown: list[list[str]]) -> list[tuple[str, str]]:
    """Blocks as they are shown; prose that was parted for its length is one."""
    found: list[tuple[str, str]] = []
    for tag, part in shown:
        if found and found[-1][0] == tag == "DIV":
            found[-1] = tag, f"{found[-1][1]}\n{part}"
        else:
            found.append((tag, part))
    return [
        (tag, part.rstrip("\n") if at < len(found) - 1 and tag == "DIV" else part)
        for at, (tag, part) in enumerate(found)
    ]


def test_an_engine_that_fails_is_shown(browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the answer, and above; what was said stays."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    with served_page(slow(Speech(ENDLESS))) as server, opened(browser, server.url, ignored="503") as tab:
        ask(tab, "Talk.")
        wait_longer(tab, 10)
        monkeypatch.setattr(Scheduler, "plan", broken)
        tab.wait_for_selector(".fault")
        tab.wait_for_selector("#banner:not([hidden])")
        assert "does not run any more" in tab.inner_text("#banner")
        assert tab.get_attribute("#banner", "role") == "alert"
        assert length(tab) > 10
        told = tab.inner_text("#banner")
        for _ in range(2):
            with tab.expect_request("**/page/feeds"):
                pass
            assert tab.inner_text("#banner") == told  # whoever listens is not told again and again
        monkeypatch.undo()


def test_a_server_that_is_gone_is_told_and_one_that_comes_back_is_used(browser: Any) -> None:
    """The page says so, and keeps what was typed."""
    speech = Speech("Hello there.")
    with served_page(slow(speech)) as server, opened(browser, server.url, ignored="ERR_FAILED") as tab:
        tab.route("**/page/**", lambda route: route.abort())
        ask(tab, "Hi")
        tab.wait_for_selector("#banner:not([hidden])")
        assert tab.input_value("#question") == "Hi"
        tab.unroute("**/page/**")
        ask(tab, "Hi")
        wait_over(tab)
        assert tab.is_hidden("#banner")


def test_a_key_is_asked_for_until_it_is_right(browser: Any) -> None:
    """And kept for the tab, through a reload."""
    with (
        served_page(slow(Speech()), keys=["schlüssel"]) as server,
        opened(browser, server.url, ready="#key-dialog[open]", ignored="401") as tab,
    ):
        assert tab.evaluate("document.activeElement.id") == "key"
        tab.fill("#key", "wrong")
        tab.keyboard.press("Enter")
        tab.wait_for_function("() => document.querySelector('#key-note').textContent.includes('not the server')")
        tab.fill("#key", "schlüssel")
        tab.keyboard.press("Enter")
        tab.wait_for_function("() => document.querySelector('#model').options.length === 1")
        ask(tab, "Hi")
        wait_over(tab)
        tab.reload()
        tab.wait_for_selector(".turn")
        assert tab.locator("#key-dialog[open]").count() == 0


def test_a_narrow_screen_has_all_of_it(browser: Any, server: PageServer, speech: Speech) -> None:
    """Nothing stands outside of it, sides cover it, and branches are swiped."""
    speech.other = "word " * 9 + "\n```\n" + "x" * 80 + "\n```\n" + "y" * 60
    with opened(browser, server.url, viewport={"width": 360, "height": 640}) as tab:
        ask(tab, "Hi")
        wait_over(tab)
        tab.click(".foot-acts >> text=Branch")
        wait_over(tab, 2)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        for name in ("panel", "events"):
            tab.click(f"#{name}-button")
            assert tab.locator(f"#{name}").bounding_box()["width"] == 360
            assert tab.evaluate("document.documentElement.scrollWidth") <= 360
            tab.click(f"[data-close={name}]")
        for each in ("#question", "#send", "#copies", "#new-chat"):
            box = tab.locator(each).bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["height"] >= 24


def test_all_of_it_works_by_keyboard(browser: Any, server: PageServer) -> None:
    """Each control is reached by Tab, in the order in which it stands, and shows that it has the focus."""
    with opened(browser, server.url) as tab:
        tab.keyboard.type("one")
        tab.keyboard.press("Shift+Enter")
        tab.keyboard.type("two")
        assert tab.input_value("#question") == "one\ntwo"
        tab.keyboard.press("Enter")
        wait_over(tab)
        assert tab.inner_text(".bubble") == "one\ntwo"
        tab.focus(".skip")
        reached: list[str] = []
        for _ in range(30):
            tab.keyboard.press("Tab")
            found = tab.evaluate("""() => {
                const at = document.activeElement, name = at.id || at.className || at.tagName;
                if (at === document.body) return '';
                return `${name}|${at.textContent.slice(0, 20)}|${getComputedStyle(at).outlineStyle}`;
            }""")
            if not found:
                break
            assert not found.endswith("|none"), found
            reached.append(found)
        names = " ".join(reached)
        for expected in (
            "model",
            "panel-button",
            "new-chat",
            "Edit",
            "Regenerate",
            "question",
            "copies",
            "send",
        ):
            assert expected in names
        assert names.index("panel-button") < names.index("Regenerate") < names.index("send")


def test_the_focus_is_never_lost(browser: Any, server: PageServer, speech: Speech) -> None:
    """What is pressed and then gone gives the focus to what stands in its place."""
    with opened(browser, server.url) as tab:
        ask(tab, "Hi")
        wait_over(tab)
        for press in ("text=Regenerate", "[aria-label='The branch before']", "[aria-label='The next branch']"):
            tab.focus(press)
            tab.keyboard.press("Enter")
            tab.wait_for_selector("text=/[12]\\/2/")
            wait_over(tab)
            assert tab.evaluate("document.activeElement.closest('.lane') !== null"), press
        speech.other = ENDLESS
        tab.focus("text=Regenerate")
        tab.keyboard.press("Enter")
        wait_longer(tab, 10)
        tab.focus(".turn-foot >> text=Stop")
        tab.keyboard.press("Enter")
        wait_over(tab)
        assert tab.evaluate("document.activeElement.textContent") == "Regenerate"


def test_a_tab_that_nobody_sees_holds_no_connection(browser: Any, server: PageServer, speech: Speech) -> None:
    """But while an answer of its runs; it has one again once it is looked at."""
    hide = """is => {
        Object.defineProperty(document, 'hidden', { value: is, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    speech.other = ENDLESS
    with opened(browser, server.url) as tab:
        ask(tab, "Talk.")
        wait_longer(tab, 10)
        tab.evaluate(hide, True)
        wait_longer(tab, length(tab) + 10)
        tab.click("#stop")
        wait_over(tab)
        tab.evaluate(hide, False)
        with tab.expect_event("requestfailed") as ended:
            tab.evaluate(hide, True)
        assert ended.value.url.endswith("/page/feeds")
        with tab.expect_request("**/page/feeds"):
            tab.evaluate(hide, False)
        speech.other = "Fine."
        ask(tab, "Go on.")
        wait_over(tab, 2)


def test_a_connection_that_is_lost_is_made_again(browser: Any, server: PageServer, speech: Speech) -> None:
    """What ran over it has ended, and is shown as that; the next answer comes over the new one."""
    speech.other = ENDLESS
    with opened(browser, server.url, ignored="ERR_|Failed to fetch|network") as tab:
        ask(tab, "Talk.")
        wait_longer(tab, 10)
        server.hang_up()
        wait_over(tab)
        server.wait_until_idle()
        assert "stopped" in tab.inner_text(".turn-foot")
        assert length(tab) > 10
        speech.other = "Fine."
        ask(tab, "Go on.")
        wait_over(tab, 2)
        assert tab.inner_text(".answer >> nth=1").strip() == "Fine."
        tab.wait_for_function("() => document.querySelector('#banner').hidden")


def test_nothing_moves_where_that_is_not_wanted(browser: Any, server: PageServer, speech: Speech) -> None:
    """Whoever prefers reduced motion has none, while an answer streams."""
    speech.other = ENDLESS
    count = "document.getAnimations().length"
    for motion in ("no-preference", "reduce"):
        with opened(browser, server.url, reduced_motion=motion) as tab:
            ask(tab, "Talk.")
            wait_longer(tab, 10)
            assert (tab.evaluate(count) > 0) == (motion == "no-preference")
            tab.click("#stop")
            wait_over(tab)
