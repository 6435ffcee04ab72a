"""A foreign engine's grammar as what a request may say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock

from greenroom.constraints.cbison.counts import Closable
from greenroom.constraints.cbison.factory import CbisonFactory
from greenroom.constraints.cbison.matcher import CbisonMatcher
from greenroom.constraints.constraint import CompiledConstraint, Compiler, Constraint
from greenroom.errors import InvalidConstraint, shown

__all__ = ["Cbison"]


@dataclass(frozen=True)
class Cbison(Constraint):
    """The output obeys a grammar of a foreign engine: `constrain=Cbison(factory, "regex", "[0-9]+")`.

    `kind` is one that the engine knows: CBISON names `regex`, `json_schema`, `json_object`, `lark` and `llguidance`.
    The engine must have been made from the model's own vocabulary; what of that can be seen is checked when it is
    compiled: its number of tokens and the ids that end a turn. Where it lacks `clone_matcher`, every request compiles
    anew.
    """

    factory: CbisonFactory
    kind: str
    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.factory, CbisonFactory):
            raise InvalidConstraint(f"Cbison needs a CbisonFactory, got {shown(self.factory)}")

    def compile(self, compiler: Compiler) -> CompiledConstraint:
        """See `Constraint.compile`. Raises `FactoryClosed` too."""
        self.factory.check_width(compiler.vocabulary.n_vocab)
        template = MatcherTemplate(self.factory, self.kind, self.text, compiler.vocabulary.eos)
        found = self.factory.validate(self.kind, self.text)
        return _CompiledCbison(template, (found.message,) if found.status == "warning" else ())


class MatcherTemplate(Closable):
    """A grammar's first matcher, which requests copy. It does not keep its factory from being closed."""

    def __init__(self, factory: CbisonFactory, kind: str, text: str, eos_ids: Iterable[int]) -> None:
        self._factory = factory
        self._kind, self._text, self._eos_ids = kind, text, tuple(eos_ids)
        self._lock = Lock()  # a matcher has one owner, and requests start on any thread
        self._clones = "clone_matcher" in factory.capabilities
        self.first = self._create()
        if not self._clones:
            self.first.close()
        factory.closes_with(self)

    def start(self) -> CbisonMatcher:
        """A matcher at the start. Raises `FactoryClosed`."""
        if not self._clones:
            return self._create()
        with self._lock:
            if self.first.is_closed:
                self.first = self._create()
            return self.first.fork()

    def close(self) -> None:
        """Free the first matcher; another is made where one is asked for."""
        with self._lock:
            self.first.close()

    def _create(self) -> CbisonMatcher:
        return self._factory.matcher(self._kind, self._text, eos_ids=self._eos_ids)


class _CompiledCbison(CompiledConstraint):
    def __init__(self, template: MatcherTemplate, warnings: tuple[str, ...]) -> None:
        super().__init__(template.first, warnings=warnings)
        self._template = template

    def start(self) -> CbisonMatcher:
        """See `CompiledConstraint.start`."""
        return self._template.start()
