"""`greenroom batch`: every line has one answer, in order, whatever it says and whenever the process was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from greenroom import Reply, Runtime, Scripted
from greenroom.cli import batch, main
from greenroom.serve import app
from greenroom.serve.batch_lines import MOST_LINE_BYTES, BatchAnswers, batch_lines, id_of_answer

URL = "/v1/chat/completions"


def line(custom_id: object, text: str = "hi", url: str = URL, **body: Any) -> bytes:
    """A request as OpenAI's clients write it."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


async def answered(*lines: bytes) -> list[dict[str, Any]]:
    """What is written of them, one after the other."""
    async with Runtime(backend=Scripted()) as runtime:
        answers = BatchAnswers(app(runtime))
        found = [json.loads(await answers.answer(place, each)) for place, each in enumerate(lines)]
    good = [each for each in found if each["error"] is None and each["response"]["status_code"] == 200]
    assert (answers.num_succeeded, answers.num_failed) == (len(good), len(found) - len(good))
    return found


async def test_each_api_is_answered() -> None:
    """In its own form, with its own tokens."""
    found = await answered(
        line("a", "one"),
        line("b", url="/v1/messages", max_tokens=20),
        json.dumps({"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "two"}}).encode(),
        json.dumps({"custom_id": "d", "method": "POST", "url": "/v1/responses", "body": {"input": "three"}}).encode(),
    )
    assert [each["custom_id"] for each in found] == ["a", "b", "c", "d"]
    bodies = [each["response"]["body"] for each in found]
    assert bodies[0]["choices"][0]["message"]["content"] == "one"
    assert bodies[1]["content"][0]["text"] == "hi"
    assert bodies[2]["object"] == "text_completion"
    assert bodies[3]["object"] == "response"
    assert len({each["id"] for each in found}) == len({body["id"] for body in bodies}) == 4


BAD = {
    "no json": (b"{not json}\n", "invalid_json"),
    "no object": (b"[1]\n", "invalid_json"),
    "not utf-8": (b'{"custom_id": "\xff"}\n', "invalid_json"),
    "deep": (b'{"custom_id":' * 5000, "invalid_json"),
    "no id": (line(None), "missing_custom_id"),
    "an id that is none": (line(7), "missing_custom_id"),
    "another url": (line("x", url="/v1/files"), "invalid_url"),
    "a list as a url": (line("x").replace(b'"/v1/chat/completions"', b"[]"), "invalid_url"),
    "no body": (b'{"custom_id": "x", "url": "/v1/completions"}\n', "invalid_body"),
    "a stream": (line("x", stream=True), "invalid_body"),
    "too long": (line("x", "y" * MOST_LINE_BYTES), "line_too_long"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_line_hurts_itself_alone(name: str) -> None:
    """It has an error that says what; its neighbours have their answers."""
    bad, code = BAD[name]
    before, found, after = await answered(line("a", "one"), bad, line("b", "two"))
    assert found["error"]["code"] == code
    assert found["response"] is None
    assert before["response"]["body"]["choices"][0]["message"]["content"] == "one"
    assert after["response"]["body"]["choices"][0]["message"]["content"] == "two"


async def test_what_the_api_refuses_is_its_answer() -> None:
    """With the status and the envelope that a server would send; a `custom_id` that was there before is refused."""
    found = await answered(line("a", temperature="hot"), line("a"), line("b", model="gpt-9"))
    assert found[0]["response"]["status_code"] == 400
    assert found[0]["response"]["body"]["error"]["param"] == "temperature"
    assert found[1]["error"]["code"] == "duplicate_custom_id"
    assert found[2]["response"]["status_code"] == 404


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    """Blank ones are none, the last may lack its end, and one without end takes no more memory than shows it."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n" + line("a") + b"  \r\n" + b"z" * (3 * MOST_LINE_BYTES) + b"\n" + line("b").rstrip())
    with path.open("rb") as file:
        found = [*batch_lines(file)]
    assert [id_of_answer(each) for each in found] == ["a", None, "b"]
    assert len(found[1]) == MOST_LINE_BYTES + 1


COUNT = 30
CHILD = """
import os, signal, sys
from greenroom import Reply, Runtime, Scripted
from greenroom.cli import batch, main

def reply(message, seed):
    return Reply(f"{message} under {seed}. " * 3)

batch.make_runtime = lambda options: Runtime(backend=Scripted(reply))
most = int(sys.argv[3])
if most >= 0:
    take_up = batch._take_up

    class Killed:
        def __init__(self, target):
            self.target = target
            self.left = most

        def write(self, data):
            self.target.write(data[: self.left])
            self.left -= len(data)
            if self.left <= 0:
                self.target.flush()
                os.kill(os.getpid(), signal.SIGKILL)

        def flush(self):
            self.target.flush()

    opened = batch._opened
    import contextlib

    @contextlib.contextmanager
    def opening(path, mode):
        with opened(path, mode) as file:
            yield Killed(file) if mode == "a+b" else file

    batch._opened = opening
    batch._take_up = lambda path, target: take_up(path, target.target)
sys.exit(main(["batch", sys.argv[1], sys.argv[2], "--json"]))
"""


def run(source: Path, target: Path, most: int = -1) -> subprocess.CompletedProcess[str]:
    """A process of its own, killed in the midst of the byte after so many that it writes."""
    command = [sys.executable, "-c", CHILD, str(source), str(target), str(most)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def without_times(path: Path) -> list[dict[str, Any]]:
    """The answers, but for when they were made."""
    found = [json.loads(each) for each in path.read_bytes().splitlines()]
    for each in found:
        if each["response"] is not None:
            each["response"]["body"].pop("created", None)
    return found


@pytest.mark.timeout(300)
def test_killed_at_any_byte_it_goes_on(tmp_path: Path) -> None:
    """Every line once, in order, equal to an undisturbed run: none done twice, none half written."""
    source, target, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_bytes(b"".join([line(f"id {number}", f"text {number}") for number in range(COUNT)]) + b"nonsense\n")
    done = run(source, whole)
    assert done.returncode == 0, done.stderr
    wanted = without_times(whole)
    assert [each["custom_id"] for each in wanted] == [*[f"id {number}" for number in range(COUNT)], None]
    before: list[bytes] = []
    for most in (1, 2500, 10):
        assert run(source, target, most).returncode == -signal.SIGKILL
        lines = target.read_bytes().split(b"\n")[:-1]
        assert lines[: len(before)] == before  # what was there stays as it is
        before = lines
    assert 0 < len(before) < COUNT
    done = run(source, target)
    assert done.returncode == 0, done.stderr
    assert without_times(target) == wanted
    summary = json.loads(done.stdout)
    assert summary["answered_before"] == len(before)
    assert summary["succeeded"] + summary["failed"] == COUNT + 1 - len(before)


def test_files_that_cannot_be_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No input, an output of another input, one that is no file; nothing of them is changed."""
    monkeypatch.setattr(batch, "make_runtime", lambda _: Runtime(backend=Scripted(Reply("x"))))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(target)]) == 1
    assert "in.jsonl" in capsys.readouterr().err
    source.write_bytes(line("a"))
    target.write_bytes(b'{"custom_id": "another"}\n')
    assert main(["batch", str(source), str(target)]) == 1
    assert "no answer to that line" in capsys.readouterr().err
    assert target.read_bytes() == b'{"custom_id": "another"}\n'
    assert main(["batch", str(source), str(tmp_path)]) == 1
    target.unlink()
    assert main(["batch", str(source), str(target)]) == 0
    assert "succeeded 1, failed 0" in capsys.readouterr().err


def test_one_run_writes_a_file_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second one is told, and changes nothing."""
    import fcntl

    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(line("a"))
    with target.open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["batch", str(source), str(target)]) == 1
    assert "another run writes it" in capsys.readouterr().err
    assert target.stat().st_size == 0
