"""Bodies made from the app's own description, right and wrong ones, by schemathesis: none is a failure of ours.

By hand, for longer:

    EXAMPLES=10000 .ci/clients clients tests/clients/test_schemathesis.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from asgi_client import ask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from greenroom import GenerateParameters, Reply, Runtime, Scripted
from greenroom.serve import ServeSettings, app

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = int(os.environ.get("EXAMPLES", "300"))
JSON = [("content-type", "application/json")]
REFUSALS = {400, 404, 405, 413, 415, 422, 429}


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[BlockingPortal, Starlette]]:
    """An app whose model says what each constraint takes, in few tokens, and the loop that it runs on."""
    runtime = Runtime(
        backend=Scripted(Reply("Yes.", bends=True), context_length=600), parameters=GenerateParameters(max_tokens=40)
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(runtime):
        yield portal, app(runtime, settings=ServeSettings(timeout=20))


def operations(portal: BlockingPortal, asgi: Starlette) -> list[Any]:
    """What the app says that it answers."""
    described = portal.call(lambda: ask(asgi, "/openapi.json", method="GET"))
    schema = schemathesis.openapi.from_dict(described.value)
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # schemathesis's own
def test_whatever_fits_the_description_or_does_not_is_answered(served: tuple[BlockingPortal, Starlette]) -> None:
    """Each of the app's operations in turn."""
    portal, asgi = served
    known = operations(portal, asgi)
    strategies = [
        operation.as_strategy(generation_mode=mode) for operation in known for mode in schemathesis.GenerationMode
    ]
    statuses: dict[int, int] = {}

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=st.one_of(strategies))
    def tried(case: Any) -> None:
        body = None if isinstance(case.body, schemathesis.core.NotSet) else json.dumps(case.body, default=str).encode()
        answer = portal.call(lambda: ask(asgi, case.formatted_path, body, method=case.method.upper(), headers=JSON))
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status == 200 or answer.status in REFUSALS, (case.formatted_path, body, answer)

    tried()
    assert statuses[200] > EXAMPLES // 50
