"""Findings and the report that they make, as values, as JSON and as Markdown to paste.

A report is to be shown to others: findings hold figures, names of models on the hub, and what was raised without what
it may say of its user (`privacy`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

__all__ = ["SCHEMA", "Finding", "Report"]

SCHEMA = 1
"""Of the JSON: another number where a field goes or changes its meaning."""
Number = int | float
Figure = Number | str | bool | None | dict[str, Number]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check says, of a model or (None) of the machine.

    `status` is "wrong" where something does not do what is promised, "note" where it is worth to know, "skipped" where
    there was nothing to look at. `figures` of a check that looks at several numbers of rows are a table.
    """

    check: str
    model: str | None = None
    status: Literal["ok", "note", "wrong", "skipped"]
    summary: str
    figures: dict[str, Figure] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All findings, in the order of the checks."""

    schema: int = SCHEMA
    findings: tuple[Finding, ...]

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.status != "wrong" for finding in self.findings)

    def to_json(self) -> str:
        """With line ends, to be read."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1).decode() + "\n"

    def to_markdown(self) -> str:
        """To paste: what is wrong stands first."""
        return "\n".join(_lines(self)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    wrong = [finding for finding in report.findings if finding.status == "wrong"]
    yield f"# greenroom doctor: {f'{len(wrong)} of {len(report.findings)} checks' if wrong else 'nothing'} found wrong"
    if wrong:
        yield ""
    for finding in wrong:
        yield f"- **{finding.check}**{f' of {finding.model}' if finding.model else ''}: {finding.summary}"
    for model in dict.fromkeys(finding.model for finding in report.findings):
        yield ""
        yield f"## {model or 'The machine'}"
        yield ""
        yield "| check | | |"
        yield "|---|---|---|"
        found = [finding for finding in report.findings if finding.model == model]
        for finding in found:
            yield f"| {finding.check} | {finding.status} | {_cell(finding.summary)} |"
        for finding in found:
            yield from _table(finding)


def _table(finding: Finding) -> Iterator[str]:
    rows = {name: figure for name, figure in finding.figures.items() if isinstance(figure, dict)}
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    yield ""
    yield f"| {finding.check} | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(_number(row.get(column)) for column in columns)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3g}" if value < 100 else f"{value:,.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
