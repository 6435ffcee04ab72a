"""Rules that are regular, written out in those that name them: what is left names rules that are not.

A rule is regular where it names none but such, or itself at one end only, as `list ::= item list | item` does. What
names itself like that and others too becomes a loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf

from greenroom.constraints.gbnf.expressions import (
    EMPTY,
    NEVER,
    Alternatives,
    Expression,
    Repeated,
    RuleName,
    Series,
    TokenName,
    either,
    repeated,
    series,
)
from greenroom.errors import InvalidConstraint

__all__ = ["is_regular", "joined_rules", "rule_names"]

_MOST_NODES = 2000
"""Of a regular rule that is written out where it is named; larger ones stay rules."""
_MOST_DEPTH = 100
"""Of nodes in each other, likewise."""

_MOST_SHORTEST = 20_000
"""Characters that every text has: llguidance writes what is forced at once."""
_MOST_TIMES = 10_000
"""How often a part is repeated, where that is bounded."""

Rules = dict[str, Expression]
Linear = tuple[dict[str, Expression], Expression]
"""What stands before each rule that is named last, and what names none."""


def joined_rules(rules: Rules) -> Rules:
    """The rules that `root` needs, regular ones written out. A rule of which there is no text is gone with its uses.

    Raises `InvalidConstraint` where `root` has no text, or none but long ones.
    """
    for name, body in rules.items():
        _check_counts(name, body)
    lengths = _shortest(rules)
    if lengths["root"] == inf:
        raise InvalidConstraint("the GBNF has no text: 'root' never ends, or needs a character of an empty set")
    if lengths["root"] > _MOST_SHORTEST:
        raise InvalidConstraint(
            f"the shortest text of the GBNF has {lengths['root']:.0f} characters: at most {_MOST_SHORTEST} are possible"
        )
    fruitful = {name for name, length in lengths.items() if length < inf}
    bodies = {name: _written(body, {}, fruitful) for name, body in rules.items()}
    done: Rules = {}
    for circle in _circles(bodies):
        found = {name: _written(bodies[name], done, fruitful) for name in circle}
        if len(circle) > 1 or circle[0] in rule_names(found[circle[0]]):
            found = _solved(found) or _solved_alone(found)
        done.update(found)
    found = {name: done[name] for name in _needed(done)}
    for name, body in found.items():
        _check_counts(name, body)
    return _without_single_uses(found)


def _check_counts(name: str, body: Expression) -> None:
    todo = [body]
    while todo:
        each = todo.pop()
        if isinstance(each, Repeated) and max(each.least, each.most or 0) > _MOST_TIMES:
            raise InvalidConstraint(
                f"rule {name!r} of the GBNF repeats a part up to {each.most or each.least} times, with the rules that "
                f"it names: at most {_MOST_TIMES} are possible; `{{{each.least},}}` has no bound"
            )
        todo += each.parts


def _without_single_uses(rules: Rules) -> Rules:
    """`rules`, of which those that are named once stand where they are named."""
    uses = Counter(name for body in rules.values() for name in rule_names(body))
    once: Rules = {}
    found: Rules = {}
    for name, body in reversed(rules.items()):  # those that are named come last, mostly
        found[name] = _written(body, once, set(rules), is_any=True)
        if name != "root" and uses[name] == 1 and found[name].depth <= _MOST_DEPTH:
            once[name] = found[name]
    return {name: found[name] for name in _needed(found)}


def is_regular(expression: Expression) -> bool:
    """Whether it names neither rules nor tokens."""
    todo = [expression]
    while todo:
        each = todo.pop()
        if isinstance(each, RuleName | TokenName):
            return False
        todo += each.parts
    return True


def rule_names(expression: Expression) -> list[str]:
    """The rules that it names, each as often as it does."""
    found: list[str] = []
    todo = [expression]
    while todo:
        each = todo.pop()
        if isinstance(each, RuleName):
            found.append(each.name)
        todo += each.parts
    return found


def _shortest(rules: Rules) -> dict[str, float]:
    """How many characters and tokens the shortest text of each rule has; infinity where there is no text."""
    found = dict.fromkeys(rules, inf)
    is_new = True
    while is_new:
        is_new = False
        for name, body in reversed(rules.items()):  # those that are named come last, mostly
            length = _shortest_of(body, found)
            is_new = is_new or length < found[name]
            found[name] = length
    return found


def _shortest_of(expression: Expression, known: Mapping[str, float]) -> float:
    if isinstance(expression, RuleName):
        return known[expression.name]
    if isinstance(expression, Alternatives):
        return min((_shortest_of(part, known) for part in expression.members), default=inf)
    if isinstance(expression, Series):
        return sum(_shortest_of(part, known) for part in expression.members)
    if isinstance(expression, Repeated):
        return expression.least * _shortest_of(expression.inner, known) if expression.least else 0
    return 1


def _written(expression: Expression, done: Rules, fruitful: set[str], *, is_any: bool = False) -> Expression:
    """`expression` with rules of `done` in the place of their names: those that are small and regular, or any."""
    if isinstance(expression, RuleName):
        body = done.get(expression.name)
        if expression.name not in fruitful:
            return NEVER
        return body if body is not None and (is_any or _is_small(body)) else expression
    parts = [_written(part, done, fruitful, is_any=is_any) for part in expression.parts]
    if isinstance(expression, Series):
        return series(parts)
    if isinstance(expression, Alternatives):
        return either(parts)
    if isinstance(expression, Repeated):
        return repeated(parts[0], expression.least, expression.most)
    return expression


def _is_small(body: Expression) -> bool:
    return body.size <= _MOST_NODES and body.depth <= _MOST_DEPTH and is_regular(body)


def _solved(rules: Rules) -> Rules | None:
    """Rules that name each other at one end only, without that; None where they do so elsewhere.

    X = A X | B says A* B, and so one rule after the other is put into those that are left.
    """
    for is_last in (True, False):
        equations = {name: _linear(body, rules, is_last=is_last) for name, body in rules.items()}
        known = {name: equation for name, equation in equations.items() if equation is not None}
        if len(known) == len(rules):
            return _eliminated(known, is_last=is_last)
    return None


def _solved_alone(rules: Rules) -> Rules:
    """The same for each rule that names itself, whatever the others are."""
    found = dict(rules)
    for name, body in rules.items():
        if name in rule_names(body):
            found.update(_solved({name: body}) or {})
    return found


def _eliminated(equations: dict[str, Linear], *, is_last: bool) -> Rules | None:
    order = list(equations)
    for name in order:
        before, rest = equations[name]
        loop = repeated(before.pop(name, NEVER), 0, None)
        before = {other: _chain([loop, part], is_last=is_last) for other, part in before.items()}
        equations[name] = before, _chain([loop, rest], is_last=is_last)
        for other in order:
            if other != name and name in equations[other][0]:
                _put(equations[name], name, equations[other], equations, other, is_last=is_last)
        if max(_size(equation) for equation in equations.values()) > _MOST_NODES:
            return None
    return {name: rest for name, (_, rest) in equations.items()}


def _put(what: Linear, name: str, into: Linear, equations: dict[str, Linear], other: str, *, is_last: bool) -> None:
    """Write `what`, the rule `name`, out in the equation of `other`."""
    before, rest = dict(into[0]), into[1]
    prefix = before.pop(name)
    for target, part in what[0].items():
        before[target] = either([before.get(target, NEVER), _chain([prefix, part], is_last=is_last)])
    equations[other] = before, either([rest, _chain([prefix, what[1]], is_last=is_last)])


def _size(equation: Linear) -> int:
    return sum(part.size for part in equation[0].values()) + equation[1].size


def _chain(parts: Sequence[Expression], *, is_last: bool) -> Expression:
    """`parts` from the far end to the end at which rules are named."""
    return series(parts if is_last else reversed(parts))


def _linear(expression: Expression, circle: Mapping[str, object], *, is_last: bool) -> Linear | None:
    """`expression` by the rules that it names at its end, or at its beginning; None where it names them elsewhere."""
    if circle.keys().isdisjoint(rule_names(expression)):
        return {}, expression
    if isinstance(expression, RuleName):
        return {expression.name: EMPTY}, NEVER
    if isinstance(expression, Alternatives):
        return _sum([_linear(part, circle, is_last=is_last) for part in expression.members])
    if isinstance(expression, Repeated) and expression.most == 1:
        return _sum([_linear(expression.inner, circle, is_last=is_last), ({}, EMPTY)])
    return _linear_series(expression, circle, is_last=is_last) if isinstance(expression, Series) else None


def _linear_series(expression: Series, circle: Mapping[str, object], *, is_last: bool) -> Linear | None:
    *far, near = expression.members if is_last else reversed(expression.members)
    found = _linear(near, circle, is_last=is_last)
    if found is None or not all(circle.keys().isdisjoint(rule_names(part)) for part in far):
        return None
    prefix = series(far if is_last else reversed(far))
    before = {name: _chain([prefix, part], is_last=is_last) for name, part in found[0].items()}
    return before, _chain([prefix, found[1]], is_last=is_last)


def _sum(equations: Sequence[Linear | None]) -> Linear | None:
    before: dict[str, Expression] = {}
    rests: list[Expression] = []
    for equation in equations:
        if equation is None:
            return None
        for name, part in equation[0].items():
            before[name] = either([before.get(name, NEVER), part])
        rests.append(equation[1])
    return before, either(rests)


def _needed(rules: Rules) -> list[str]:
    """The names of the rules that `root` leads to, itself first."""
    found = {"root": None}
    todo = ["root"]
    while todo:
        for name in rule_names(rules[todo.pop()]):
            if name not in found:
                found[name] = None
                todo.append(name)
    return list(found)


def _circles(rules: Rules) -> list[list[str]]:
    """The rules that lead to each other, together; each such circle after those that it leads to. Tarjan's."""
    numbers: dict[str, int] = {}
    lows: dict[str, int] = {}
    open_: dict[str, None] = {}
    found: list[list[str]] = []
    work = [("root", iter(rule_names(rules["root"])))]
    numbers["root"] = lows["root"] = 0
    open_["root"] = None
    while work:
        name, others = work[-1]
        for other in others:
            if other not in numbers:
                numbers[other] = lows[other] = len(numbers)
                open_[other] = None
                work.append((other, iter(rule_names(rules[other]))))
                break
            if other in open_:
                lows[name] = min(lows[name], numbers[other])
        else:
            work.pop()
            if work:
                lows[work[-1][0]] = min(lows[work[-1][0]], lows[name])
            if lows[name] == numbers[name]:
                members = list(open_)
                circle = members[members.index(name) :]
                for each in circle:
                    del open_[each]
                found.append(circle)
    return found
