"""What the demo shows: the state of its streams as a table, or as plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.table import Table

__all__ = ["Line", "lines", "table"]


class Line:
    """One stream of the demo, as shown."""

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self.text = ""
        self.state = "queued"
        self.tokens = 0
        self.begun: float | None = None
        self.ended: float | None = None

    def add(self, text: str) -> None:
        """A chunk has come."""
        now = time.monotonic()
        self.begun = self.begun or now
        self.text += text
        self.tokens += 1
        self.state = "running"

    @property
    def rate(self) -> float:
        """Chunks per second since the first."""
        if self.begun is None or self.tokens < 2:
            return 0.0
        return (self.tokens - 1) / max(1e-9, (self.ended or time.monotonic()) - self.begun)


def _tail(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else "…" + flat[-width + 1 :]


def table(shown: list[Line], *, running: int, places: int, width: int) -> Table:
    """The live view. `running` of `places` rows share the passes now."""
    view = Table(title=f"{running} of {places} rows in the batch", expand=True)
    view.add_column("#", justify="right")
    view.add_column("state")
    view.add_column("tok/s", justify="right")
    view.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for number, line in enumerate(shown):
        view.add_row(str(number), line.state, f"{line.rate:.0f}", _tail(line.text or line.prompt, max(20, width - 30)))
    return view


def lines(shown: list[Line]) -> list[str]:
    """The plain view, once all have ended."""
    return [f"{n:2} {line.state:9} {line.rate:5.0f} tok/s  {_tail(line.text, 90)}" for n, line in enumerate(shown)]
