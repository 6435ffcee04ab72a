"""The examples in frameworks that have no event loop, or one of their own. Each skips where its framework is absent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from example_files import EXAMPLES as FOLDER
from example_files import load_example

from greenroom import Reply, Scripted, blocking

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = Reply("on and on ", end=False, repeat=True)
REPLIES = {"*": Reply("well said"), "endless": ENDLESS}


def example(name: str) -> ModuleType:
    """The module of that file."""
    return load_example(FOLDER / f"{name}.py")


def block_of(heading: str) -> str:
    """The code of a section of the page."""
    page = (ROOT / "docs" / "blocking.md").read_text()
    found = re.search(rf"## {heading}\n.*?```py\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) < 20
    return found[1]


@pytest.fixture
def runtime() -> Iterator[blocking.Runtime]:
    """On the double."""
    rt = blocking.Runtime(backend=Scripted(REPLIES))
    yield rt
    rt.close()


def is_idle(rt: blocking.Runtime) -> bool:
    """Whether what ran has ended, and nothing was cut by the asking."""
    return rt.call(drained, rt) == 0


async def drained(runtime: Any) -> int:
    """How many requests still run once their cancellation had its time."""
    for _ in range(1000):
        if not runtime.statistics().running:
            return 0
        await asyncio.sleep(0.01)
    return 1


def test_flask(runtime: blocking.Runtime) -> None:
    """Text, a stream, one whose client leaves, an error."""
    pytest.importorskip("flask")
    client = example("flask_app").create_app(runtime).test_client()
    assert client.get("/text?q=x").json == {"text": "well said"}
    assert client.get("/stream?q=x").text == "well said"
    response = client.get("/stream?q=endless")
    assert next(response.iter_encoded())
    response.close()
    assert is_idle(runtime)
    assert client.get("/text?q=" + "x" * 5000).status_code == 400


def test_the_page_of_flask() -> None:
    """As it stands, on the bundled model."""
    pytest.importorskip("flask")
    module = ModuleType("page")
    exec(compile(block_of("Flask"), "page", "exec"), module.__dict__)  # noqa: S102 - our own page
    assert module.app.test_client().get("/text?q=Hello!").json["text"]
    module.rt.close()


def test_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under WSGI by threads, under ASGI by its loop, and a view without `async` there."""
    pytest.importorskip("django")
    module = example("django_app")
    monkeypatch.setattr(module, "blocking_runtime", blocking.Runtime(backend=Scripted(REPLIES)))
    testing = pytest.importorskip("django.test")
    client = testing.Client()
    assert client.get("/text?q=x").json() == {"text": "well said"}
    response: Any = client.get("/stream?q=x")
    assert b"".join(response.streaming_content) == b"well said"
    response = client.get("/stream?q=endless")
    assert next(iter(response.streaming_content))
    response.close()
    assert is_idle(module.blocking_runtime)

    async def asked() -> None:
        monkeypatch.setattr(module, "runtime", module.Runtime(backend=Scripted(REPLIES)))
        client = testing.AsyncClient()
        assert (await client.get("/text?q=x")).json() == {"text": "well said"}
        response: Any = await client.get("/astream?q=x")
        assert b"".join([part async for part in response.streaming_content]) == b"well said"
        await module.runtime.close()

    asyncio.run(asked())
    module.blocking_runtime.close()


def test_streamlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions of one session; the script runs anew for each, the runtime is opened once."""
    testing = pytest.importorskip("streamlit.testing.v1")
    opened = []

    def runtime(*args: Any, **options: Any) -> blocking.Runtime:
        opened.append(made(*args, **options, backend=Scripted(REPLIES)))
        return opened[-1]

    made = blocking.Runtime
    monkeypatch.setattr(blocking, "Runtime", runtime)
    app = testing.AppTest.from_file(str(FOLDER / "streamlit_app.py"), default_timeout=30).run()
    for _ in range(2):
        app.chat_input[0].set_value("x").run()
        assert not app.exception
    assert [message.markdown[0].value for message in app.chat_message] == ["x", "well said"] * 2
    assert len(opened) == 1
    opened[0].close()


def outputs(cell: Any) -> str:
    """All that a cell printed or gave, and the names of its errors."""
    found = [each.get("text") or each.get("data", {}).get("text/plain") or each.ename for each in cell.outputs]
    return "".join(map(str, found))


def test_a_notebook() -> None:
    """Its cells, the page's, and two that are interrupted: what they waited for has ended, the kernel goes on."""
    pytest.importorskip("ipykernel")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(FOLDER / "notebook.ipynb", as_version=4)
    page = nbformat.v4.new_code_cell(block_of("A notebook"))
    begin = nbformat.v4.new_code_cell(
        "from greenroom import Reply, Runtime, Scripted, blocking\n"
        "endless = lambda: Scripted(Reply('on and on ', end=False, repeat=True), step_seconds=0.001)\n"
        "there, here = await Runtime(backend=endless()).open(), blocking.Runtime(backend=endless()).open()"
    )
    waits = [
        nbformat.v4.new_code_cell("print('began')\nasync for _ in there.generate('x'): pass"),
        nbformat.v4.new_code_cell("print('began')\nfor _ in here.generate('x'): pass"),
    ]
    end = nbformat.v4.new_code_cell(
        "import gc; gc.collect()\nprint(await there.drain(), here.drain().wait())\nawait there.close(); here.close()"
    )
    notebook.cells += [page, begin, *waits, end]
    client = nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3", allow_errors=True)

    async def executed() -> None:
        async with client.async_setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code":
                    continue
                running = asyncio.create_task(client.async_execute_cell(cell, index))
                if cell in waits:
                    while not cell.outputs:  # noqa: ASYNC110 - nbclient tells nobody of an output
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.05)
                    await client.km.interrupt_kernel()
                await running

    asyncio.run(executed())
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    failed = [cell for cell in cells if any(each.output_type == "error" for each in cell.outputs)]
    assert failed == waits, [outputs(cell) for cell in failed]
    assert outputs(end).strip() == "0 0"
    assert outputs(page).strip()
