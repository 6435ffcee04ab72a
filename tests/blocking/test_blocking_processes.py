"""What a process does with a blocking runtime: it exits with one open, forks, is interrupted by a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
import anyio
from greenroom import ForkedProcess, Reply, Scripted, blocking
from greenroom.blocking.mirrors import unwrap

# A terminal's interrupt: the row is over when it arrives in the program.
endless = Scripted(Reply("on and on ", end=False, repeat=True), step_seconds=0.001)
rt = blocking.Runtime(backend=endless, loop=sys.argv[1])
rt.open()
stream = rt.generate("x")
next(stream)
mailbox = unwrap(stream)._mailbox

def interrupt():
    endless.wait_held()
    while mailbox._events or not mailbox.reader.locked():
        time.sleep(0.001)
    time.sleep(0.05)  # it waits, or is about to: that is all the same
    put, mailbox._put = mailbox._put, lambda message: (put(message), endless.release_all())
    os.kill(os.getpid(), signal.SIGINT)

endless.hold()
threading.Thread(target=interrupt).start()
try:
    for _ in stream:
        pass
except KeyboardInterrupt:
    print(stream.task.info.stop_detail, rt.statistics().running, flush=True)

# A child made by fork: what its parent opened would never answer, and it can have its own.
stream, task = rt.generate_task("x")
next(stream)
if os.fork() == 0:
    uses = [lambda: list(stream), task.wait, lambda: stream.task, lambda: rt.generate("x"), rt.statistics, rt.close]
    for use in uses:
        try:
            use()
        except ForkedProcess:
            continue
        os._exit(1)
    with blocking.Runtime(backend=Scripted(Reply("a child's own")), loop=sys.argv[1]) as own:
        print(own.generate("x").text(), flush=True)
    sys.exit()
print(os.waitstatus_to_exitcode(os.wait()[1]))
next(stream)

# An exit with the runtime open, a thread that waits for it, and worker threads of its loop.
threading.Thread(target=list, args=[stream], daemon=True).start()
rt.call(anyio.to_thread.run_sync, int)
print("done")
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_interrupts_forks_and_exits(loop: str) -> None:
    """Each does what it says, nothing hangs, and nobody complains."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, loop], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["scope 0", "a child's own", "0", "done"]
