"""The checks, one after the other: of the machine, and of each model. One that fails is a finding, and others go on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from greenroom.backends import understudy
from greenroom.doctor.findings import Finding, Report
from greenroom.doctor.machine import check_device, check_machine, check_masks
from greenroom.doctor.model_checks import (
    FULL,
    QUICK,
    Opened,
    Sizes,
    check_equality,
    check_launches,
    check_memory,
    check_speed,
)
from greenroom.doctor.privacy import describe_error
from greenroom.runtime import Runtime

__all__ = ["FULL", "QUICK", "Progress", "Sizes", "Subject", "examine"]

BUNDLED = "the bundled model"
Progress = Callable[[str, int, int], None]
"""What was done last, and how many pieces of how many are done."""
Find = Callable[[], Awaitable[Finding]]
_AFTER_LOAD = ("memory", "equality", "speed", "close", "launches")


class Subject(NamedTuple):
    """A model's folder, and the name under which a report may speak of it."""

    folder: Path
    name: str


async def examine(named: Subject | None, sizes: Sizes, progress: Progress) -> Report:
    """Check the machine, the bundled model and, where one is named, that; its files are here. Downloads nothing."""
    subjects = [Subject(understudy.path(), BUNDLED), *([named] if named is not None else [])]
    of_machine = {"machine": check_machine, "device": check_device, "masks": check_masks}
    examination = Examination(progress, len(of_machine) + len(subjects) * sizes.pieces)
    for name, check in of_machine.items():

        async def find(check: Callable[[], Finding] = check) -> Finding:
            return check()

        await examination.run(name, find)
    for subject in subjects:
        await ModelExamination(examination, subject, sizes).run()
    return Report(findings=tuple(examination.findings))


class Examination:
    """What is found, as it is found."""

    def __init__(self, progress: Progress, pieces: int) -> None:
        """Of so many pieces of work."""
        self.findings: list[Finding] = []
        self._progress = progress
        self._done, self._pieces = 0, pieces

    def advance(self, what: str) -> None:
        """A piece of a check is done."""
        self._done = min(self._done + 1, self._pieces)
        self._progress(what, self._done, self._pieces)

    async def run(self, check: str, find: Find, model: str | None = None, private: Sequence[str] = ()) -> bool:
        """Keep what a check finds, and what it raises as something wrong; whether it raised nothing."""
        try:
            finding = msgspec.structs.replace(await find(), model=model)
        except Exception as error:  # noqa: BLE001 - a crash is what was to be found
            why = describe_error(error, private=private)
            self.findings.append(Finding(check=check, model=model, status="wrong", summary=why))
            return False
        finally:
            self.advance(check)
        self.findings.append(finding)
        return True

    def skip(self, checks: Sequence[str], model: str, why: str) -> None:
        """Say that these were not run."""
        self.findings += [Finding(check=check, model=model, status="skipped", summary=why) for check in checks]


class ModelExamination:
    """The checks of one model, loaded as a runtime loads it."""

    def __init__(self, examination: Examination, subject: Subject, sizes: Sizes) -> None:
        self._examination = examination
        self._subject = subject
        self._sizes = sizes
        self._runtime: Runtime | None = None
        self._backend: Any = None
        self._private = (str(subject.folder), subject.folder.name)

    async def run(self) -> None:
        """All of them. What a step launches is counted last: nobody else may run the model then."""
        is_loaded = await self._check("load", self._load)
        model = self._backend.model if is_loaded else None
        info = self._runtime.model if is_loaded and self._runtime is not None else None
        try:
            if info is not None and self._runtime is not None:
                await self._check_opened(Opened(self._runtime.generate_tokens, self._backend, info))
        finally:
            if self._runtime is not None:
                await self._check("close", self._close)
        if info is None:
            self._examination.skip(_AFTER_LOAD, self._subject.name, "the model could not be loaded")
            return
        advance = partial(self._examination.advance, "launches")
        rows, profile = self._sizes.rows, self._backend.device
        await self._check("launches", partial(check_launches, model, info.tokenizer, profile, rows, advance))

    async def _check_opened(self, opened: Opened) -> None:
        await self._check("memory", partial(check_memory, opened))
        for name, check in (("equality", check_equality), ("speed", check_speed)):
            advance = partial(self._examination.advance, name)
            await self._check(name, partial(check, opened, self._sizes, advance))

    async def _check(self, name: str, find: Find) -> bool:
        return await self._examination.run(name, find, self._subject.name, self._private)

    async def _load(self) -> Finding:
        from greenroom.backends.mlx import MlxBackend

        began = time.perf_counter()
        self._backend = MlxBackend(self._subject.folder)
        self._runtime = await Runtime(backend=self._backend).__aenter__()
        seconds = time.perf_counter() - began
        info, store = self._runtime.model, type(self._backend.store).__name__
        kind = str(getattr(self._backend.model, "model_type", "unknown"))
        return Finding(
            check="load",
            status="ok",
            summary=f"{kind}, loaded in {seconds:.1f} s, rows in a {store}",
            figures={
                "kind": kind,
                "seconds": seconds,
                "store": store,
                "pipelines": info.pipelines,
                "vocabulary": info.vocab_size,
                "context_length": info.context_length,
                "kv_bytes_per_token": info.kv_bytes_per_token,
            },
        )

    async def _close(self) -> Finding:
        """Leave the runtime, when every row is over."""
        runtime, self._runtime = self._runtime, None
        if runtime is None:
            raise RuntimeError("the runtime is closed already")
        held = runtime.statistics().kv_bytes
        await runtime.__aexit__(None, None, None)
        if held:
            return Finding(
                check="close", status="wrong", summary=f"{held:,} bytes of KV were held when no row was left"
            )
        return Finding(check="close", status="ok", summary="the KV of all rows was given back")
