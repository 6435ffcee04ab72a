"""A model and the conversation with it, as a chat has them open: either may be exchanged while the other stays."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from anyio import CancelScope

from greenroom import ChatSession, EventTurn, Runtime
from greenroom.cli.loading import SamplingOverrides, request_overrides
from greenroom.cli.progress import loading_bars
from greenroom.inputs.tools import Toolbox

__all__ = ["OpenChat"]

MakeRuntime = Callable[[argparse.Namespace], Runtime]


class OpenChat:
    """An async context manager: the model that `options` name is open inside. Raises what opening it raises."""

    def __init__(self, options: argparse.Namespace, tools: list[Any], make_runtime: MakeRuntime) -> None:
        self._options = options
        self._make_runtime = make_runtime
        self._overrides: SamplingOverrides = {}
        self._asked: tuple[int, str] | None = None
        """How long the history was before the last question, and that."""
        self.tools = list(Toolbox(tools))

    def __repr__(self) -> str:
        return f"<OpenChat {self.model_name!r}>"

    async def __aenter__(self) -> Self:
        async with loading_bars(self._options):
            await self._open(self._options)
        self.session = self._new_session(self._options.instructions, [])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.runtime.close()

    @property
    def model_name(self) -> str:
        """As a reader knows it."""
        return self._options.model or "the bundled understudy"

    @property
    def adapter_name(self) -> str | None:
        """As it was named."""
        name: str | None = self._options.adapter
        return name

    def ask(self, question: str) -> EventTurn:
        """The turn that answers."""
        self._asked = (len(self.session.history), question)
        return self.session.stream_events(question, **self._overrides)

    def ask_again(self) -> EventTurn | None:
        """A turn in place of the last one; None where nothing was asked."""
        if self._asked is None:
            return None
        length, question = self._asked
        self.session = self._new_session(self.session.instructions, self.session.history[:length])
        return self.ask(question)

    def forget(self) -> None:
        """Begin the conversation anew."""
        self.session.clear()
        self._asked = None

    async def load(self, path: str, *, cache: bool) -> None:
        """Take the conversation of a file; its last question can be asked again."""
        await self.session.load(path, cache=cache)
        self._asked = None
        for place, message in enumerate(self.session.history):
            if message["role"] == "user" and isinstance(message["content"], str):
                self._asked = (place, message["content"])

    async def change_model(self, name: str | None) -> None:
        """Go on with another model, None for the bundled one. Its files are found, or downloaded, first.

        The one before is closed then, as two may not fit; it is opened again where the other cannot be. Raises what
        opening raises.
        """
        asked = {**vars(self._options), "model": name, "revision": None, "adapter": None}
        options = argparse.Namespace(**asked)
        async with loading_bars(options):
            await self._change(options)

    async def _change(self, options: argparse.Namespace) -> None:
        instructions, history = self.session.instructions, self.session.history
        try:
            await self.runtime.close()
            await self._open(options)
        except BaseException:
            with CancelScope(shield=True):
                await self._open(self._options)
            raise
        finally:
            self.session = self._new_session(instructions, history)
        self._options = options

    async def change_adapter(self, name: str | None) -> None:
        """Go on with another adapter, or None. Raises what loading it raises; then the one before stays."""
        before = self._overrides.get("adapter")
        if name is None:
            self._overrides.pop("adapter", None)
        else:
            self._overrides["adapter"] = await self.runtime.load_adapter(name)
        self._options = argparse.Namespace(**{**vars(self._options), "adapter": name})
        if before is not None:
            await before.aclose()

    async def _open(self, options: argparse.Namespace) -> None:
        runtime = self._make_runtime(options)
        await runtime.open()
        try:
            self._overrides = await request_overrides(runtime, options)
        except BaseException:
            with CancelScope(shield=True):
                await runtime.close()
            raise
        self.runtime = runtime

    def _new_session(self, instructions: str | None, history: list[Any]) -> ChatSession:
        return ChatSession(
            self.runtime,
            instructions=instructions,
            history=history,
            tools=self.tools or None,
            on_cancel="keep_partial",
            thinking=True if self._options.thinking else None,
        )
