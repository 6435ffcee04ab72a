"""What the tests of the page share: one browser a file, and what the model says in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import launched
from page_server import Speech


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests of a file."""
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def speech() -> Speech:
    """What the model says."""
    return Speech()
