"""What every test shares: the event loops it runs on, reproducible properties, and the folder of shared material."""

from __future__ import annotations

import importlib.util
import os
import secrets
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before anything loads a BLAS: processes side by side share the cores
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
HAS_UVLOOP = importlib.util.find_spec("uvloop") is not None

# A loaded machine is slow, not wrong: the global timeout catches what hangs. CI draws the same examples each time.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """The event loop of an async test: asyncio and trio, and uvloop where the test has that marker."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave uvloop out of the tests that do not ask for it, and of all where it is not installed."""
    items[:] = [item for item in items if _wanted(item)]


def _wanted(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    backend = callspec.params.get("anyio_backend") if callspec else None
    if backend != ("asyncio", {"use_uvloop": True}):
        return True
    return HAS_UVLOOP and item.get_closest_marker("uvloop") is not None


@pytest.fixture
def drawn_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed that a program leaves to chance is the same in each run."""
    monkeypatch.setattr(secrets, "randbits", lambda bits: 7 % (1 << bits))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test material beside the repository; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside the repository")
    return folder
