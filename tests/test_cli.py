"""The command line, as a user runs it."""

from __future__ import annotations

import argparse
import io
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from rich.console import Console

from greenroom import Runtime, Scripted
from greenroom.backends.protocol import ModelInfo
from greenroom.cli import chat, generate, loading, main
from greenroom.cli.terminal.screen import Screen
from greenroom.events import Chunk, Function, Info, Reasoning, ToolCall


def test_json_events_are_lines_that_decode_and_end_in_info(capfd: pytest.CaptureFixture[str]) -> None:
    """Every line is an event; the last one is the info."""
    assert main(["generate", "Hello!", "--json", "--max-tokens", "6", "--temperature", "0"]) == 0
    events = [msgspec.json.decode(line, type=Chunk | Info) for line in capfd.readouterr().out.splitlines()]
    assert isinstance(events[-1], Info)
    assert events[-1].generation_tokens <= 6
    assert all(isinstance(event, Chunk) for event in events[:-1])


def test_the_same_prompt_as_plain_text_on_trio(capfd: pytest.CaptureFixture[str]) -> None:
    """The text, and a line end."""
    arguments = ["generate", "Hello!", "--max-tokens", "6", "--temperature", "0", "--backend", "trio"]
    assert main(arguments) == 0
    assert capfd.readouterr().out.strip()


def test_an_adapter_is_loaded_by_its_folder(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What it writes is not what the model by itself writes; a folder that holds none is told."""

    async def save() -> None:
        async with Runtime() as runtime, await runtime.create_adapter(rank=2, sigma=0.5) as adapter:
            await adapter.perturbed(3).save(tmp_path / "adapter")

    anyio.run(save)
    arguments = ["generate", "Hello!", "--max-tokens", "24", "--temperature", "0"]
    found = []
    for more in ([], ["--adapter", str(tmp_path / "adapter")]):
        assert main([*arguments, *more]) == 0
        found.append(capfd.readouterr().out)
    assert found[0] != found[1]
    assert main([*arguments, "--adapter", str(tmp_path)]) == 1
    assert "InvalidAdapter" in capfd.readouterr().err


def test_an_error_is_json_and_exit_code_one(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`{"type": "error", …}` names the error."""
    assert main(["generate", "Hello!", "--json", "--model", str(tmp_path / "nowhere")]) == 1
    error = msgspec.json.decode(capfd.readouterr().out)
    assert error["type"] == "error"
    assert error["error"] == "ModelNotFound"


def test_a_bad_parameter_is_told_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """With its name, and exit code 1."""
    assert main(["generate", "Hello!", "--temperature", "-1"]) == 1
    assert "temperature" in capfd.readouterr().err


def test_a_prompt_is_read_from_the_input(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """All of it, where it is text and no longer than any context."""
    backend = Scripted("Yes.")
    monkeypatch.setattr(generate, "make_runtime", lambda _: Runtime(backend=backend))
    monkeypatch.setattr(generate, "_MOST_INPUT", 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Is it?\n\n")))
    assert main(["generate", "-"]) == 0
    assert [request.message for request in backend.requests] == ["Is it?\n\n"]
    for wrong, why in ((b"x" * 11, "more than 10 bytes"), (b"\xff", "no UTF-8")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(wrong)))
        with pytest.raises(SystemExit) as caught:
            main(["generate", "-"])
        assert caught.value.code == 2
        assert why in capfd.readouterr().err


def test_on_a_terminal_words_are_whole_and_steer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a pipe the text goes as the model wrote it."""
    text = "Extraordinary \x1b[31mterminals\x1b[0m."
    monkeypatch.setattr(generate, "make_runtime", lambda _: Runtime(backend=Scripted(text)))
    monkeypatch.setenv("COLUMNS", "20")
    for is_terminal, expected in ((False, text), (True, "Extraordinary\n␛[31mterminals␛[0m.")):
        out = io.StringIO()
        monkeypatch.setattr(out, "isatty", lambda found=is_terminal: found)
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["generate", "Hi!"]) == 0
        assert out.getvalue() == expected + "\n"


def test_the_numbers_of_the_demo_are_an_object(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of JSON, and nothing else; an error is one too."""
    assert main(["demo", "--json", "--streams", "2", "--max-tokens", "4"]) == 0
    numbers = msgspec.json.decode(capfd.readouterr().out)
    assert numbers["streams"] == 2
    assert numbers["kv_bytes_before"] == numbers["kv_bytes_after"]
    assert main(["demo", "--json", "--model", str(tmp_path)]) == 1
    assert msgspec.json.decode(capfd.readouterr().out)["error"] == "ModelNotFound"


def test_stop_strings_and_where_they_count_are_given_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A thought is ended by one with `--stop-in-thinking` alone."""
    reply = Scripted("<think>a. b</think>Yes. No.")
    monkeypatch.setattr(generate, "make_runtime", lambda _: Runtime(backend=reply))
    told = []
    for flags in ([], ["--stop-in-thinking"]):
        assert main(["generate", "Hello!", "--stop", ". ", "--temperature", "0", *flags]) == 0
        told.append(capfd.readouterr().out)
    assert told == ["Yes\n", "\n"]


def test_the_version_is_the_packages(capfd: pytest.CaptureFixture[str]) -> None:
    """`greenroom --version`."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capfd.readouterr().out.startswith("greenroom 0.")


def test_the_demo_cancels_one_stream_and_gives_its_memory_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Plain output off a terminal: a line a stream, then the summary."""
    assert main(["demo", "--streams", "4", "--max-tokens", "40"]) == 0
    out = capfd.readouterr().out
    assert out.count("tok/s") >= 5
    assert "cancelled and settled in" in out
    assert "KV bytes: 0 before, 0 after" in out


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_settles_and_exits_cleanly() -> None:
    """Exit code 130, no traceback. A text that ends by itself before the signal arrives shows nothing: then another."""
    for seed in range(5):
        code, errors = _interrupted(seed)
        assert "Traceback" not in errors
        if code != 0:
            break
    assert code == 130


def _interrupted(seed: int) -> tuple[int, str]:
    command = [sys.executable, "-m", "greenroom", "generate", "Tell me a long story.", "--json", "--max-tokens", "3500"]
    command += ["--temperature", "3", "--raw", "--seed", str(seed)]
    # A job that a shell runs in the background ignores SIGINT, and so would its children.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=listen) as process:  # noqa: PLW1509 - one thread
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def weather(city: str) -> str:
    """Get the current weather for a city."""
    return f"It snows in {city}."


def test_a_chat_remembers_saves_and_ends(tmp_path: Path) -> None:
    """Lines of a pipe are turns; answers stream, thinking and counts with them."""
    lines = f"Hello! Who are you?\n/save {tmp_path / 'chat.json'}\n/clear\n/nothing\nThank you!\n/quit\nnever\n"
    chat = [sys.executable, "-m", "greenroom", "chat", "--temperature", "0", "--max-tokens", "30"]
    done = subprocess.run(chat, input=lines, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prompt tokens reused") == 2
    saved = msgspec.json.decode((tmp_path / "chat.json").read_bytes())
    assert [message["role"] for message in saved["history"]] == ["user", "assistant"]
    assert saved["history"][1]["content"] in done.stdout


@pytest.mark.timeout(120)  # two processes, one after the other
def test_a_chat_goes_on_in_another_process(tmp_path: Path) -> None:
    """With the KV of the turns before it."""
    chat = [sys.executable, "-m", "greenroom", "chat", "--temperature", "0", "--max-tokens", "30"]
    kept = tmp_path / "chat.json"
    asked = "Tell me a short story about a fox.\nHello! Who are you?\n"
    for lines in (f"{asked}/save {kept}\n", f"/load {kept}\nThank you!\n"):
        done = subprocess.run(chat, input=lines, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr
    reused = re.search(r"(\d+) of (\d+) prompt tokens reused", done.stdout)
    assert reused is not None
    assert 64 <= int(reused[1]) < int(reused[2])


def test_a_chat_shows_the_calls_of_its_tools() -> None:
    """A function is named as MODULE:FUNCTION, from the folder one stands in."""
    chat = [sys.executable, "-m", "greenroom", "chat", "--temperature", "0", "--max-tokens", "60"]
    done = subprocess.run(
        [*chat, "--tool", "test_cli:weather"],
        input="What is the weather in Tarnok?\n",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert '→ weather {"city": "Tarnok"}' in done.stdout


def test_thinking_is_dim_and_what_a_model_writes_is_no_markup() -> None:
    """In a terminal with colours; text stands as it is."""
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=True, color_system="standard"))
    for event in (Reasoning("[bold] hm"), Chunk("[red]yes :smile:"), ToolCall(Function("add", {"a": 1}), "id", "raw")):
        screen.show(event)
    assert "\x1b[2;3m[bold]\x1b[0m" in out.getvalue()
    assert "[red]yes :smile:" in out.getvalue()
    assert '→ add {"a": 1}' in out.getvalue()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_ctrl_c_stops_an_answer_and_keeps_the_chat(loop: str, tmp_path: Path) -> None:
    """The answer that was cut is in the transcript; the next question is answered."""
    chat = [
        sys.executable,
        "-u",
        "-m",
        "greenroom",
        "chat",
        "--temperature",
        "3",
        "--max-tokens",
        "3000",
        "--seed",
        "3",
    ]
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*chat, "--backend", loop],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=listen,  # noqa: PLW1509 - one thread
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("Tell me a long story.\n")
        process.stdin.flush()
        begun = "".join([process.stdout.readline() for _ in range(2)])
        begun += process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(f"/save {tmp_path / 'chat.json'}\n/quit\n", timeout=50)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    if "(stopped)" not in rest:  # it ended by itself before the signal came
        assert "prompt tokens reused" in begun + rest
    saved = msgspec.json.decode((tmp_path / "chat.json").read_bytes())
    assert [message["role"] for message in saved["history"]] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("switches", "temperature", "seed"),
    [
        ([], 0.6, None),
        (["--model-parameters"], None, None),
        (["--model-parameters", "--temperature", "0.3", "--seed", "5"], 0.3, 5),
        (["--temperature", "0"], 0.0, None),
    ],
)
@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_model_may_say_how_it_is_drawn_and_what_is_given_goes_before(
    command: str, switches: list[str], temperature: float | None, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--model-parameters` is `Runtime(parameters="model")`; a temperature of ours is not among what is given then."""
    backend = Suggesting("Hello.")
    monkeypatch.setattr(generate, "make_runtime", partial(_runtime, backend))
    monkeypatch.setattr(chat, "make_runtime", partial(_runtime, backend))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi!\n"))
    assert main([command, *(["Hi!"] if command == "generate" else []), *switches]) == 0
    (request,) = backend.requests
    assert request.sampling.temperature == (0.25 if temperature is None else temperature)
    assert request.sampling.top_k == (7 if "--model-parameters" in switches else 0)
    assert seed is None or request.sampling.seed == seed


class Suggesting(Scripted):
    """A model whose authors suggest how to draw."""

    def load(self) -> ModelInfo:
        """See `Backend.load`."""
        return msgspec.structs.replace(super().load(), suggested_sampling={"temperature": 0.25, "top_k": 7})


def _runtime(backend: Scripted, options: argparse.Namespace) -> Runtime:
    return Runtime(backend=backend, parameters=loading.asked_parameters(options))
