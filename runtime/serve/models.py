"""The models that an app serves, by the names that requests have for them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from greenroom import Adapter, Runtime
from greenroom.backends import understudy
from greenroom.errors import GreenroomError, InvalidParameter
from greenroom.serve.faults import Fault, RequestRefused

__all__ = ["Models", "ServedModel", "name_of"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model by its name: the runtime that runs it, and the adapter that it is run with."""

    name: str
    runtime: Runtime
    adapter: Adapter | None = None


class Models:
    """What `app(runtime, models=…)` was given, looked at anew for each request: adapters may come and go."""

    def __init__(self, runtime: Runtime, given: Mapping[str, Runtime | Adapter] | None) -> None:
        if not isinstance(runtime, Runtime):
            raise InvalidParameter("runtime", runtime, "a Runtime")
        if given is not None and not isinstance(given, Mapping):
            raise InvalidParameter("models", given, "None or a mapping of names to runtimes and adapters")
        named: Mapping[Any, Any] = given or {}
        for name, each in named.items():
            if not isinstance(name, str) or not name or not isinstance(each, Runtime | Adapter):
                raise InvalidParameter(
                    f"models[{name!r}]", each, "a Runtime or an Adapter, by a name that is not empty"
                )
        self._runtime = runtime
        self._given = given
        self.created = int(time.time())
        """When the app was made, in seconds since 1970: models have no other date."""

    def __repr__(self) -> str:
        return f"<Models {' '.join(self._given or ())}>"

    def __iter__(self) -> Iterator[ServedModel]:
        given = self._given or {}
        if not any(each is self._runtime for each in given.values()):
            yield ServedModel(name_of(self._runtime), self._runtime)
        for name, each in list(given.items()):
            if isinstance(each, Runtime):
                yield ServedModel(name, each)
            elif not each.is_closed:
                yield ServedModel(name, self._runtime_of(name), each)

    def runtimes(self) -> tuple[Runtime, ...]:
        """Those that are served, the app's own first."""
        others = [each for each in (self._given or {}).values() if isinstance(each, Runtime)]
        return tuple(dict.fromkeys([self._runtime, *others]))

    def named_runtimes(self) -> Iterator[tuple[str, Runtime]]:
        """Each of them once, by a name that requests have for it; one that is not open may have none: it is ""."""
        given = reversed(list((self._given or {}).items()))
        names = {id(each): name for name, each in given if isinstance(each, Runtime)}
        for runtime in self.runtimes():
            name = names.get(id(runtime))
            if name is None:
                try:
                    name = name_of(runtime)
                except GreenroomError:
                    name = ""
            yield name, runtime

    def _runtime_of(self, name: str) -> Runtime:
        """Of the adapter `model:adapter` that of `model`; else the app's own."""
        base = (self._given or {}).get(name.rpartition(":")[0])
        return base if isinstance(base, Runtime) else self._runtime

    def find(self, name: str | None) -> ServedModel:
        """The model of that name; without one, the app's own. Raises `RequestRefused`, and as `Runtime.model` does."""
        served = list(self)
        if name is None:
            return next(each for each in served if each.runtime is self._runtime and each.adapter is None)
        found = next((each for each in served if each.name == name), None)
        if found is None:
            names = ", ".join([each.name for each in served][:20])
            message = f"there is no model {name[:200]!r} here: it serves {names}"
            raise RequestRefused(Fault(404, "not_found", message, "model_not_found", "model"))
        return found


def name_of(runtime: Runtime) -> str:
    """A hub name as it is; of a folder the last part, since clients need not know where it lies."""
    name = runtime.model.name
    if name == str(understudy.path()):
        return "understudy"
    return PurePath(name).name if PurePath(name).is_absolute() else name
