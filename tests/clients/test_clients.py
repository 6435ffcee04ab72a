"""Every client that people have, over HTTP and without a port: the same few things work with each.

Those that are not installed skip; `.ci/clients` installs them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from client_places import SMALL, Place, behind_a_port, in_this_process
from client_subjects import SUBJECTS, Person, Subject

from greenroom import Reply

pytestmark = [
    pytest.mark.filterwarnings("default"),  # what clients warn of is theirs
    pytest.mark.timeout(240),  # seconds: some take half a minute to be imported, where a machine is busy
]

GREETING = "Hello there, friend."
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
ADA = '{"name": "Ada", "age": 36}'


@pytest.fixture(scope="module")
def port() -> Iterator[Place]:
    """One server for all of them."""
    with behind_a_port() as place:
        yield place


@pytest.fixture(params=["in process", "over HTTP"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """Where the app is."""
    if request.param == "over HTTP":
        place = request.getfixturevalue("port")
        place.say()
        yield place
        await place.wait_until_idle()
        return
    async with in_this_process() as place:
        yield place


@pytest.fixture(params=SUBJECTS)
async def client(request: pytest.FixtureRequest, place: Place, anyio_backend: Any) -> AsyncIterator[Subject]:
    """One that is installed, on a loop that it knows."""
    kind = SUBJECTS[request.param]
    if anyio_backend[0] not in kind.loops:
        pytest.skip(f"{request.param} knows asyncio alone")
    subject = kind(place)
    yield subject
    await subject.aclose()


async def test_a_chat_is_answered_with_its_usage(client: Subject) -> None:
    """The text, and what it cost: a token a character."""
    said = await client.chat("Hello!")
    assert said.text == GREETING
    assert said.prompt_tokens > len("Hello!")
    assert said.completion_tokens == len(GREETING)


async def test_a_stream_comes_in_pieces_with_its_usage(client: Subject) -> None:
    """Of the same text at the same cost."""
    client.place.say(ADA if client.package == "instructor" else GREETING)
    said = await client.stream("Hello!")
    if client.package == "instructor":
        assert Person.model_validate_json(said.text) == Person(name="Ada", age=36)
    else:
        assert (said.text, said.completion_tokens) == (GREETING, len(GREETING))
        assert said.prompt_tokens > len("Hello!")
    assert said.pieces > 5


async def test_a_tool_is_called_and_its_result_answered(client: Subject) -> None:
    """The call with its arguments; the result goes back with the call's id."""
    cities = []

    def weather(city: str) -> str:
        cities.append(city)
        return "rain"

    client.place.say(CALL, "It rains in Oslo.")
    assert await client.tools("How is the weather in Oslo?", weather) == "It rains in Oslo."
    assert cities == ["Oslo"]


async def test_an_answer_is_an_object(client: Subject) -> None:
    """The schema of a type is sent, and holds the model to it."""
    client.place.say(ADA)
    assert await client.structured("Who?") == Person(name="Ada", age=36)


async def test_an_error_is_the_client_s_own(client: Subject) -> None:
    """A model that is not there, and a prompt that is too long: status and words arrive, in a class of the client's."""
    unknown = await client.refusal("Hello!", "nobody")
    assert "nobody" in unknown.message
    assert unknown.status in {404, None}
    long = await client.refusal("long " * 200, SMALL)
    assert long.status in {400, None}
    assert "context" in long.message or "long" in long.message


async def test_a_client_that_leaves_stops_its_row(client: Subject) -> None:
    """Behind the first piece of a text without end nothing runs any more."""
    client.place.say(Reply("on and on ", end=False, repeat=True))
    assert await client.leave("Tell me.")
    await client.place.wait_until_idle()
    assert client.place.runtime.statistics().running == 0
