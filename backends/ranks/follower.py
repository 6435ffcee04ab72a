"""A rank that makes the calls rank 0 tells it of, until the group ends; and its own end, whatever it is stuck in.

What it waits for inside of a pass comes from other processes and may never come. So the thread that misses rank 0's
pulse, or finds it gone, ends the process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from greenroom.backends.protocol import ForwardPlan
from greenroom.backends.ranks.agreement import RankBackend, differences
from greenroom.backends.ranks.channel import LOAD_PATIENCE, PATIENCE, PulseWatch, RankChannel
from greenroom.backends.ranks.connections import RankConnection
from greenroom.backends.ranks.messages import (
    RankBegin,
    RankEdits,
    RankEnd,
    RankFailed,
    RankForward,
    RankHello,
    RankMessage,
    RankNumber,
    RankNumbers,
    RankRead,
    RankSample,
    RankWelcome,
)
from greenroom.errors import RankLost, RanksDiffer

__all__ = ["EXIT_LOST", "RankFollower", "end_process", "follow"]

EXIT_LOST = 3
"""The exit status of a process whose group is over before it should be."""

MakeBackend = Callable[[RankHello, Callable[[int], list[int]]], RankBackend]


def end_process(why: str) -> NoReturn:
    """End this process now, whatever its other threads do."""
    sys.stderr.write(f"greenroom: {why}\n")
    sys.stderr.flush()
    os._exit(EXIT_LOST)


def follow(connection: RankConnection, welcome: RankWelcome, backend: MakeBackend) -> None:
    """Be the rank at the other end of rank 0's `connection` until that ends the group. Closes it.

    `welcome` is what this rank is like. Raises `RanksDiffer`, what loading raises, and `RankLost`: rank 0 is told.
    A rank 0 that is gone, or silent, ends the process.
    """
    try:
        hello = _agree(connection.plans, welcome)
        watch = PulseWatch([connection.pulse], end_process, patience=LOAD_PATIENCE)
        watch.start()
        last: RankEnd | RankFailed = RankEnd()
        try:
            _serve(connection.plans, hello, backend, watch)
        except BaseException as error:
            last = RankFailed(f"{type(error).__name__}: {error}")
            raise
        finally:
            watch.stop(last)
    finally:
        connection.close()


def _agree(plans: RankChannel, welcome: RankWelcome) -> RankHello:
    """What rank 0 is like, once all ranks are. Raises `RanksDiffer`, `RankLost`."""
    hello = plans.receive()
    if not isinstance(hello, RankHello):
        raise RankLost(f"{plans.name} begins with a {type(hello).__name__}")
    plans.send(welcome)
    if found := differences(hello, welcome):
        raise RanksDiffer("this rank", found)
    if not isinstance(plans.receive(), RankBegin):
        raise RankLost(f"{plans.name} does not begin")
    return hello


def _serve(plans: RankChannel, hello: RankHello, backend: MakeBackend, watch: PulseWatch) -> None:
    """Load, make calls, close."""
    own = backend(hello, lambda number: _gather(plans, number))
    own.load()
    watch.patience = PATIENCE
    RankFollower(own).run(plans)
    own.close()


def _gather(plans: RankChannel, number: int) -> list[int]:
    plans.send(RankNumber(number))
    message = plans.receive()
    if not isinstance(message, RankNumbers):
        raise RankLost(f"{plans.name} sends a {type(message).__name__} where it should load")
    return list(message.values)


class RankFollower:
    """Makes the calls of messages, and sees whether they give what they gave rank 0."""

    def __init__(self, backend: RankBackend) -> None:
        self._backend = backend
        self._reused: list[tuple[int, int]] = []
        self._num_refused = 0
        self._built: BaseException | bool = False
        """Whether a pass waits to be sampled; or why it could not be built."""

    def run(self, plans: RankChannel) -> None:
        """Until the group ends. Raises `RankLost` where this rank is out of step, or a pass fails."""
        while not isinstance(message := plans.receive(), RankEnd):
            try:
                self.perform(message)
            except RankLost:
                raise
            except Exception as error:
                raise RankLost(f"a pass failed: {type(error).__name__}: {error}") from error

    def perform(self, message: RankMessage) -> None:
        """One call."""
        match message:
            case RankEdits():
                self._edit(message)
            case RankForward():
                self._forward(message)
            case RankSample():
                self._sample(message)
            case RankRead():
                self._backend.read()
            case _:
                raise RankLost(f"rank 0 sends a {type(message).__name__} for a call")

    def _edit(self, message: RankEdits) -> None:
        try:
            result = self._backend.edit(tuple([edit.edit() for edit in message.edits]))
        except Exception:  # noqa: BLE001 - as on rank 0, or the count below says otherwise
            self._num_refused += 1
        else:
            self._reused += result.reused

    def _forward(self, message: RankForward) -> None:
        if self._built is True:
            raise RankLost("a pass that rank 0 could not build was built here")
        _require("rows begin with", tuple(self._reused), message.reused)
        _require("edits failed", self._num_refused, message.num_refused)
        self._reused.clear()
        try:
            self._backend.forward(ForwardPlan(tuple([feed.feed() for feed in message.feeds])))
        except Exception as error:  # noqa: BLE001 - as on rank 0, or it has this pass sampled
            self._built = error
        else:
            self._built = True

    def _sample(self, message: RankSample) -> None:
        if isinstance(self._built, BaseException):
            raise RankLost(f"a pass that rank 0 has built fails here: {self._built}") from self._built
        _require("tokens were run", self._backend.num_run, message.num_run)
        self._built = False
        self._backend.sample()


def _require(what: str, here: Any, there: Any) -> None:
    if here != there:
        raise RankLost(f"ranks are out of step: {what} {there} on rank 0 and {here} here")
