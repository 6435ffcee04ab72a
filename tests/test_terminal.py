"""The chat in a terminal: a real one, driven key by key, and its parts."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pexpect
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress
from terminal_app import GREETING

from greenroom import Chunk, Runtime, Scripted
from greenroom.cli import _parser, chat, main
from greenroom.cli.output import harmless, json_line
from greenroom.cli.progress import bar_class, loading_bars
from greenroom.cli.terminal.commands import COMMANDS
from greenroom.cli.terminal.screen import Screen
from greenroom.cli.terminal.tools import read_tools, server_tools
from greenroom.cli.terminal.wrapping import WordWrapper
from greenroom.errors import InvalidParameter

APP = Path(__file__).with_name("terminal_app.py")
READY = r"\x1b\[\?2004h"
"""The editor has the terminal."""
CTRL_C, CTRL_D, TAB, UP, ALT_ENTER = "\x03", "\x04", "\t", "\x1b[A", "\x1b\r"
WIDTH = 30

# Driven in a real terminal.


@contextmanager
def terminal(loop: str, *more: str, width: int = WIDTH) -> Iterator[pexpect.spawn[str]]:
    """The chat, on a terminal of its own; all that it writes is in `logfile_read`."""
    found = os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "NO_COLOR": "1"}
    environment = {name: value for name, value in found.items() if name not in {"COLUMNS", "LINES"}}
    arguments = [str(APP), "--backend", loop, *more]
    child = pexpect.spawn(
        sys.executable, arguments, env=environment, encoding="utf-8", timeout=25, dimensions=(24, width)
    )
    child.delaybeforesend = None
    child.logfile_read = io.StringIO()
    try:
        yield child
    finally:
        child.close(force=True)


def plain(text: str) -> str:
    """Without the controls that the editor writes."""
    return re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text).replace("\r", "")


@pytest.mark.timeout(120)  # two processes, one after the other
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_a_chat_is_driven_in_a_terminal(tmp_path: Path) -> None:
    """Typed, completed, stopped by Ctrl-C, continued in many lines; and remembered by the next process, on trio."""
    history = tmp_path / "kept" / "history"
    with terminal("asyncio", "--history", str(history)) as child:
        # 1. An answer: words are whole, though the screen is narrow, and what would steer it is shown.
        child.expect("loading")
        child.expect(READY)
        child.send("Hello!\r")
        child.expect("reused")
        raw = child.before or ""
        lines = plain(raw).split("\n")
        assert all(len(line) <= WIDTH for line in lines)
        assert GREETING.replace("\x1b", "␛") in " ".join(lines)
        assert "\x1b[31m" not in raw
        # 2. Ctrl-C in the middle of a turn stops that alone. Its row is gone, as the next turn's tool sees.
        child.expect(READY)
        child.send("Tell me a story.\r")
        child.expect("endless story")
        child.send(CTRL_C)
        child.expect(r"\(stopped\)")
        child.expect(READY)
        child.send("How many rows?\r")
        child.expect("rows: 0")
        child.expect(r"None is left\.")
        # 3. A command is completed; an unfinished line is cleared by Ctrl-C.
        child.expect(READY)
        child.send(f"/to{TAB}")
        child.expect("ols")
        child.send("\r")
        child.expect("count_rows: How many rows")
        child.expect(READY)
        child.send(f"never sent{CTRL_C}First line{ALT_ENTER}second line\r")
        child.expect(r"Two lines came\.")
        # 4. Two Ctrl-C at the empty prompt end it.
        child.expect(READY)
        child.send(CTRL_C)
        child.expect("Ctrl-C again")
        child.expect(READY)
        child.send(CTRL_C)
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 0
    _require_history(history)
    with terminal("trio", "--history", str(history)) as child:
        child.expect(READY)
        child.send(UP)
        child.expect("second line")
        child.send(f"{UP}{UP}")  # to the first line, and what was before it
        child.expect("/tools")
        child.send(f"{UP}\r")
        child.expect("How many rows")
        child.expect("reused")
        child.expect(READY)
        child.send(CTRL_D)
        child.expect(pexpect.EOF)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_without_an_editor_ctrl_c_means_the_same() -> None:
    """It stops a turn, and at the prompt it ends the chat at once, though a thread would read."""
    with terminal("trio", "--without-editor") as child:
        child.expect("plain input")
        child.expect("> ")
        child.send("Hello!\n")
        child.expect("reused")
        child.expect("> ")
        child.send("Tell me a story.\n")
        child.expect("endless story")
        child.send(CTRL_C)
        child.expect(r"\(stopped\)")
        child.expect("> ")
        child.send(CTRL_C)
        child.expect("everything is settled")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_a_signal_from_elsewhere_ends_the_editor_too() -> None:
    """The terminal is put back: the last that the editor writes is the end of its mode for pasting."""
    with terminal("asyncio", "--history", "none") as child:
        child.expect(READY)
        child.kill(signal.SIGINT)
        child.expect("everything is settled")
        child.expect(r"\x1b\[\?2004l")
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == 130


def _require_history(path: Path) -> None:
    """It has what was sent, and is nobody else's."""
    kept = path.read_text()
    assert "+First line\n+second line\n" in kept
    assert "never sent" not in kept
    assert path.stat().st_mode & 0o077 == 0


def test_the_commands_of_the_page_are_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of its shell block is taken, and each command of the chat is in it."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello!")))
    page = (APP.parents[1] / "docs" / "terminal.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line.partition("greenroom ")[2] for line in block.splitlines()]
    assert {_parser().parse_args(shlex.split(line)).command for line in lines} >= {"chat", "demo", "doctor", "generate"}
    for name in COMMANDS:
        assert f"`{name}" in page or name == "/exit"


# Words on lines.


@given(st.text(alphabet="ab cde\n\t日é", max_size=60), st.lists(st.integers(0, 60), max_size=6), st.integers(2, 12))
@settings(max_examples=200, derandomize=True)
def test_words_are_whole_however_the_text_is_cut(text: str, cuts: list[int], width: int) -> None:
    """Lines are no wider than the screen, nothing but blanks is lost, and a word that fits on a line is on one."""
    pieces, wrapper, last = [], WordWrapper(), 0
    for cut in [*sorted(cuts), len(text)]:
        pieces.append(wrapper.feed(text[last : max(last, cut)], width))
        last = max(last, cut)
    shown = "".join(pieces) + wrapper.flush(width)
    at_once = WordWrapper()
    assert shown == at_once.feed(text, width) + at_once.flush(width)
    assert "".join(shown.split()) == "".join(text.split())
    assert all(cell_len(line) <= width for line in shown.split("\n"))
    for word in re.findall(r"[a-zé]+", text):
        assert len(word) > width or word in re.findall(r"[a-zé]+", shown)


def test_a_word_waits_for_its_end_and_long_ones_are_cut() -> None:
    """What has no blank in it is written once it fills a line."""
    wrapper = WordWrapper()
    assert wrapper.feed("unbel", 8) == ""
    assert wrapper.feed("ie", 8) == ""
    assert wrapper.feed("vable", 8) == "unbeliev"
    assert wrapper.feed(" x", 8) == "\nable"
    assert wrapper.flush(8) == " x"


def test_no_control_character_reaches_a_terminal() -> None:
    """Neither as text, nor as JSON; tabs and line ends stay."""
    every = "".join(map(chr, range(0xA0)))
    shown = harmless(every)
    assert [character for character in shown if not character.isprintable()] == ["\t", "\n"]
    assert len(shown) == len(every)
    assert harmless("a\r\nb") == "a\nb"
    line = json_line({"text": every})
    assert line.removesuffix("\n").isprintable()
    assert json.loads(line) == {"text": every}


def test_lines_have_no_end_where_there_is_no_terminal() -> None:
    """A pipe gets the text as it is, but for what would steer a terminal."""
    out = io.StringIO()
    screen = Screen(Console(file=out, width=20))
    screen.show(Chunk(GREETING))
    screen.end_line()
    assert out.getvalue() == GREETING.replace("\x1b", "␛") + "\n"


# Commands, over plain lines.


def chatted(monkeypatch: pytest.MonkeyPatch, backends: list[Scripted], text: str, *arguments: str) -> int:
    """The exit status of a chat that is told these lines; each model that is opened is the next of `backends`."""
    left = iter(backends)

    def make_runtime(_: argparse.Namespace) -> Runtime:
        return Runtime(backend=next(left))

    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(chat, "make_runtime", make_runtime)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return main(["chat", *arguments])


def test_the_last_question_is_asked_again_in_place_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With other instructions, say; the file has one answer, and what is loaded from it can be asked again."""
    kept, backend = tmp_path / "chat.json", Scripted(["One.", "Two.", "Three.", "Four."])
    lines = f"/retry\nFirst?\nSecond?\n/system Be brief.\n/retry\n/save {kept}\n/clear\n/load {kept}\n/retry\n"
    assert chatted(monkeypatch, [backend], lines) == 0
    assert [request.message for request in backend.requests] == ["First?", "Second?", "Second?", "Second?"]
    saved = msgspec.json.decode(kept.read_bytes())
    assert [message["content"] for message in saved["history"]] == ["First?", "One.", "Second?", "Three."]
    assert saved["instructions"] == "Be brief."
    assert "Two." not in backend.requests[2].text
    assert "Three." not in backend.requests[3].text


def test_another_model_goes_on_with_the_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was said is in its prompt. One that is not there, or does not open, leaves the one before."""
    first, again, second = Scripted("One."), Scripted("Again."), Scripted("Two.")
    broken = Scripted("Never.")
    broken.fail_next("load", InvalidParameter("the model", "broken", "a model"))
    lines = f"Hi!\n/model {tmp_path}/nowhere\n/model {tmp_path}\nHello?\n/model {tmp_path}\nBye!\n"
    assert chatted(monkeypatch, [first, broken, again, second], lines) == 0
    assert [request.message for request in again.requests] == ["Hello?"]
    assert [request.message for request in second.requests] == ["Bye!"]
    assert "One." in second.requests[0].text
    assert "Again." in second.requests[0].text
    out = capsys.readouterr().out
    assert "ModelNotFound" in out
    assert "the model must be a model" in out


def test_many_lines_stand_between_quotes_where_there_is_no_editor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From three of them to three; a question with a slash has a space before it."""
    backend = Scripted("Yes.")
    assert chatted(monkeypatch, [backend], '"""\nOne\n\nTwo\n"""\n /etc is a folder?\n"""open\nend') == 0
    assert [request.message for request in backend.requests] == ["One\n\nTwo", "/etc is a folder?", "open\nend"]


def test_a_chat_of_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of the output is an object with a type; an error is one too, and the chat goes on."""
    backend = Scripted(["One.", "Two."], context_length=600)
    lines = f"Hi!\n{'long ' * 500}\nAnd now?\n/save /nowhere/at/all\n/adapter nowhere\n/what\n"
    assert chatted(monkeypatch, [backend], lines, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [each["type"] for each in found if each["type"] != "chunk"]
    assert kinds == ["note", "info", "error", "info", "error", "error", "note"]
    assert "".join(each["text"] for each in found if each["type"] == "chunk") == "One.Two."
    assert next(each["error"] for each in found if each["type"] == "error") == "PromptTooLong"


# Bars.


def test_a_download_is_told_by_bars() -> None:
    """The hub's library makes and moves them; each goes when it is over. Its bars write nothing themselves."""
    out = io.StringIO()
    bars = Progress(console=Console(file=out, force_terminal=True), auto_refresh=False)
    made: Any = bar_class(bars)
    with made(total=10, desc="Fetching\x1b files", unit="B") as bar:
        bar.update(4)
        bar.refresh()
        (task,) = bars.tasks
        assert (task.completed, task.total, task.description) == (4, 10, "Fetching␛ files")
    assert not bars.tasks
    assert list(made([1, 2], desc="files")) == [1, 2]
    assert out.getvalue() == ""


async def test_a_name_is_downloaded_under_bars_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """And under none where there is no terminal."""
    hub: Any = importlib.import_module("huggingface_hub.utils")
    given: list[tuple[object, bool]] = []

    def snapshot_download(_: str, **options: object) -> str:
        given.append((options["tqdm_class"], hub.are_progress_bars_disabled()))
        return "/nowhere"

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    options = argparse.Namespace(model="me/model", revision=None)
    for is_terminal in (False, True):
        stderr = io.StringIO()
        monkeypatch.setattr(stderr, "isatty", lambda found=is_terminal: found)
        monkeypatch.setattr(sys, "stderr", stderr)
        async with loading_bars(options):
            assert hub.are_progress_bars_disabled()
        assert not hub.are_progress_bars_disabled()
        assert bool(stderr.getvalue()) is is_terminal
    assert given[0] == (None, True)
    assert given[1][0] is not None
    assert not given[1][1]


# Tools.

SOURCE = '''
from __future__ import annotations

def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b

def double(a: int) -> int:
    """Twice a number."""
    return 2 * a

def _hidden() -> None:
    """Not for models."""

BOTH = [add, double]
'''


def test_tools_of_a_file_are_named_or_all_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function, a list of them, or every public function."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "beside_sums.py").write_text("BASE = 1\n")
    path = tmp_path / "json.py"  # as a library is called
    path.write_text(SOURCE + "\nimport beside_sums\n")
    found = {each: [tool.__name__ for tool in read_tools(f"{path}{each}")] for each in ("", ":add", ":BOTH")}
    assert found == {"": ["add", "double"], ":add": ["add"], ":BOTH": ["add", "double"]}


@pytest.mark.parametrize("source", ["no_such_module:x", "nowhere.py", "json:nothing", "broken.py", ""])
def test_a_source_without_tools_is_told_in_a_line(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, with exit status 1; a file that ends the program does not."""
    (tmp_path / "broken.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    assert chatted(monkeypatch, [], "", "--tools", source) == 1
    assert capsys.readouterr().out.startswith("InvalidParameter: --tools must be")


SERVER = '''
from mcp.server import MCPServer

server = MCPServer("weather")

@server.tool()
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: clear"

server.run()
'''


def test_a_tool_that_fails_is_a_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback on the screen, and nothing in its message that steers a terminal."""
    path = tmp_path / "failing.py"
    path.write_text('def fail() -> str:\n    """Fails."""\n    raise ValueError("no\\n\\x1b[31mluck")\n')
    call = json.dumps({"name": "fail", "arguments": {}})
    backend = Scripted([f"<tool_call>\n{call}\n</tool_call>", "Sorry."])
    assert chatted(monkeypatch, [backend], "Try.\n", "--tools", str(path)) == 0
    told = capsys.readouterr()
    assert told.err == "the tool fail failed: ValueError: no ␛[31mluck\n"
    assert "← ValueError: the tool failed" in told.out


def test_a_server_is_started_for_its_tools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tool is called; it is ended with the chat."""
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    call = json.dumps({"name": "get_weather", "arguments": {"city": "Tarnok"}})
    backend = Scripted([f"<tool_call>\n{call}\n</tool_call>", "It is clear."])
    assert chatted(monkeypatch, [backend], "/tools\nWeather?\n", "--mcp", f"{sys.executable} {path}") == 0
    out = capsys.readouterr().out
    assert "get_weather: The weather of a city." in out
    assert "← Tarnok: clear" in out


@pytest.mark.parametrize("command", ["/no/such/command", "'open", "", "PYTHON -c 'raise SystemExit(\"no weather\")'"])
async def test_a_command_that_is_no_server_is_told(command: str) -> None:
    """With the last line that it wrote."""
    command = command.replace("PYTHON", sys.executable)
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - looked at below
        async with server_tools([command]):
            pass
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, InvalidParameter)
    assert "--mcp must be the command of an MCP server" in str(error)
    assert "no weather" not in command or "it wrote: no weather" in str(error)
