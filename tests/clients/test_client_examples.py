"""The examples of clients, as they stand, on the bundled model."""

from __future__ import annotations

import anyio
import pytest
from client_subjects import load
from example_files import EXAMPLES, load_example

FOLDER = EXAMPLES / "clients"
PACKAGES = {
    "openai_client": "openai",
    "anthropic_client": "anthropic",
    "litellm_client": "litellm",
    "langchain_client": "langchain_openai",
    "pydantic_ai_client": "pydantic_ai",
    "instructor_client": "instructor",
}
pytestmark = [
    pytest.mark.filterwarnings("default"),  # what clients warn of is theirs
    pytest.mark.timeout(240),  # seconds: some take half a minute to be imported, where a machine is busy
]


@pytest.mark.usefixtures("drawn_seeds")
@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_of_a_client_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To its end, and it says something."""
    load(PACKAGES[name])
    module = load_example(FOLDER / f"{name}.py")
    anyio.run(module.main)
    said = capsys.readouterr().out
    assert len(said) > 10
    assert ("name=" in said) == hasattr(module, "Person")


def test_each_client_has_an_example() -> None:
    """And each example a test."""
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PACKAGES)
