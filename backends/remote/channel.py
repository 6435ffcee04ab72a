"""Messages over a connected socket: the length in four bytes, then msgpack. One thread receives, any thread sends."""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Channel", "ChannelClosed", "ChannelSilent"]

_SIZE = struct.Struct("<I")
_LEAST = 1 << 16
_MOST = (1 << 32) - 1
Incoming = TypeVar("Incoming")


class ChannelClosed(Exception):
    """The other end is gone, or says what is no message."""


class ChannelSilent(Exception):
    """The other end has said nothing for too long, or takes nothing."""


class Channel(Generic[Incoming]):
    """One end. `incoming` is the type, a union, of what comes; what goes is the caller's to choose.

    A message of more than `most` bytes is none: whoever connects from outside may say anything.
    """

    def __init__(self, connected: socket.socket, incoming: Any, *, most: int = _MOST) -> None:
        self._socket = connected
        self._most = most
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
        self._sending = threading.Lock()
        self._buffer = bytearray(_LEAST)
        self._filled = 0
        """Bytes of the buffer that came and were not taken."""

    def __repr__(self) -> str:
        return f"<Channel {self._socket.fileno()} unread={self._filled}>"

    def set_patience(self, seconds: float | None) -> None:
        """From now on, `ChannelSilent` is raised where nothing comes, or goes, for so long. None: never."""
        self._socket.settimeout(seconds)

    def send(self, message: msgspec.Struct) -> int:
        """Say it; returns its bytes. Raises `ChannelClosed`, `ChannelSilent`."""
        data = bytearray(_SIZE.size)
        self._encoder.encode_into(message, data, _SIZE.size)
        _SIZE.pack_into(data, 0, len(data) - _SIZE.size)
        try:
            with self._sending:
                self._socket.sendall(data)
        except TimeoutError:
            raise ChannelSilent("the other end takes nothing") from None
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        return len(data)

    def receive(self) -> Incoming:
        """The next message, as soon as all of it is there. Raises `ChannelClosed`, `ChannelSilent`."""
        self._fill(_SIZE.size)
        size = self._size()
        if size > self._most:
            raise ChannelClosed(f"the other end says {size} bytes at once")
        self._fill(size)
        try:
            message = self._decoder.decode(memoryview(self._buffer)[_SIZE.size : size])
        except msgspec.DecodeError as error:
            raise ChannelClosed(f"the other end says what is no message: {error}") from None
        self._buffer[: self._filled - size] = self._buffer[size : self._filled]
        self._filled -= size
        if len(self._buffer) > 2 * _LEAST and self._filled <= _LEAST:  # a large one has been
            self._buffer = self._buffer[:_LEAST]
        return message

    @property
    def has_message(self) -> bool:
        """Whether the next one is there as a whole, and nobody has to wait for it."""
        return self._filled >= _SIZE.size and self._filled >= self._size()

    def _size(self) -> int:
        """Of the next message, whose length is there, with that."""
        return _SIZE.size + int(_SIZE.unpack_from(self._buffer)[0])

    def close(self) -> None:
        """Again is nothing."""
        self._socket.close()

    def _fill(self, size: int) -> None:
        if size > len(self._buffer):
            self._buffer.extend(bytes(size - len(self._buffer)))
        while self._filled < size:
            try:
                count = self._socket.recv_into(memoryview(self._buffer)[self._filled :])
            except TimeoutError:
                raise ChannelSilent("the other end says nothing") from None
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            if count == 0:
                raise ChannelClosed("the other end is gone")
            self._filled += count
