"""Messages between two ranks over a socket, and the thread that sees when one of them is gone.

Each pair of ranks has two connections. Over one go the messages, read by whoever waits for them. Over the other go
pulses, so that a process that is stuck in a pass is seen to live, and one that is gone is missed while nobody reads.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from greenroom.backends.ranks.messages import RankEnd, RankFailed, RankMessage, RankPulse
from greenroom.backends.remote.channel import Channel, ChannelClosed, ChannelSilent
from greenroom.errors import RankLost

__all__ = ["LOAD_PATIENCE", "PATIENCE", "PulseWatch", "RankChannel"]

PATIENCE = 3.5
"""Seconds without a pulse after which a rank counts as lost."""
LOAD_PATIENCE = 60.0
"""The same while models are loaded: what is imported then may keep a thread waiting."""
_PULSE_EVERY = 0.5
"""Seconds."""
_END_SECONDS = 10.0
"""That a rank may take to end with its group."""
_MOST_BYTES = 1 << 28
"""Of a message: a prompt of a million tokens has five million."""


class RankChannel:
    """One connection to the rank called `name`. One thread sends, one receives. Owns the socket."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        with suppress(OSError):  # no TCP, as in tests
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.name = name
        self._channel: Channel[RankMessage] = Channel(connection, RankMessage, most=_MOST_BYTES)

    def __repr__(self) -> str:
        return f"<RankChannel {self.name}>"

    def send(self, message: RankMessage) -> None:
        """Raises `RankLost`."""
        try:
            self._channel.send(message)
        except (ChannelClosed, ChannelSilent) as error:
            raise RankLost(f"{self.name} is lost: {error}") from error

    def receive(self) -> RankMessage:
        """The next message; waits as long as the socket's timeout. Raises `RankLost`."""
        try:
            return self._channel.receive()
        except (ChannelClosed, ChannelSilent) as error:
            raise RankLost(f"{self.name} is lost: {error}") from error

    def receive_all(self) -> list[RankMessage]:
        """What has come, after the socket was found to have something. Raises `RankLost`."""
        found = [self.receive()]
        while self._channel.has_message:
            found.append(self.receive())
        return found

    def close(self) -> None:
        """From any thread: who waits for a message gets `RankLost`. Idempotent."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._channel.close()


class PulseWatch:
    """A thread that gives and takes pulses, and calls `on_lost` once, with why, when one of the channels falls silent.

    `stalled` says for how many seconds the caller's own thread has waited for a pass; more than `deadline` is a loss of
    the whole group. Stopped, it calls nothing any more.
    """

    def __init__(
        self,
        channels: list[RankChannel],
        on_lost: Callable[[str], object],
        *,
        patience: float = PATIENCE,
        stalled: Callable[[], float] = lambda: 0.0,
        deadline: float = float("inf"),
    ) -> None:
        self._channels = channels
        self._on_lost = on_lost
        self.patience = patience
        """Seconds; may be changed while it runs."""
        self._stalled = stalled
        self._deadline = deadline
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="greenroom-ranks", daemon=True)
        self._is_stopped = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, last: RankMessage) -> None:
        """End the thread and the channels, with a last word to each: `RankEnd`, or `RankFailed`."""
        self._is_stopped = True
        with suppress(OSError):
            self._wake.send(b"x")
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        for channel in self._channels:
            with suppress(RankLost):
                channel.send(last)
            channel.close()
        self._wake.close()
        self._woken.close()

    def _watch(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._woken, selectors.EVENT_READ)
                for channel in self._channels:
                    channel.socket.settimeout(_PULSE_EVERY)
                    selector.register(channel.socket, selectors.EVENT_READ, channel)
                self._exchange(selector)
        except RankLost as error:
            if not self._is_stopped:
                self._on_lost(str(error))

    def _exchange(self, selector: selectors.BaseSelector) -> None:
        """Until it is stopped. Raises `RankLost`."""
        now = time.monotonic()
        heard: dict[RankChannel, float] = dict.fromkeys(self._channels, now)
        next_pulse = now
        while not self._is_stopped:
            if now >= next_pulse:
                for channel in heard:
                    channel.send(RankPulse())
                next_pulse = now + _PULSE_EVERY
            ready = selector.select(max(0.0, next_pulse - time.monotonic()))
            later = time.monotonic()
            # A machine that slept, or a process that was stopped, has not listened: what came meanwhile is there now.
            if later - now > self.patience + _PULSE_EVERY:
                heard = dict.fromkeys(heard, later)
            now = later
            for key, _ in ready:
                if isinstance(channel := key.data, RankChannel):
                    heard[channel] = now
                    if _has_ended(channel):
                        selector.unregister(channel.socket)
                        del heard[channel]
            self._check(heard, now)
            if not heard:
                self._await_end(selector)

    def _check(self, heard: Mapping[RankChannel, float], now: float) -> None:
        for channel, at in heard.items():
            if now - at > self.patience:
                raise RankLost(f"{channel.name} has been silent for {now - at:.1f} s")
        if (seconds := self._stalled()) > self._deadline:
            raise RankLost(f"the group has not ended a pass for {seconds:.0f} s")

    def _await_end(self, selector: selectors.BaseSelector) -> None:
        """All others have ended: now this one does, within a time. Raises `RankLost`."""
        selector.select(_END_SECONDS)
        if not self._is_stopped:
            raise RankLost(f"the group has ended, and this rank has not within {_END_SECONDS:.0f} s")


def _has_ended(channel: RankChannel) -> bool:
    """Take what has come; whether that is the end. Raises `RankLost`."""
    for message in channel.receive_all():
        match message:
            case RankPulse():
                pass
            case RankEnd():
                return True
            case RankFailed(why=why):
                raise RankLost(f"{channel.name} failed: {why}")
            case _:
                raise RankLost(f"{channel.name} sends a {type(message).__name__} for a pulse")
    return False
