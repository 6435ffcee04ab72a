"""A thousand random types with an instance each: right at every moment, and equal to a plain parse at the end."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, Literal

import pytest
from structures_documents import pieces
from structures_types import FLAVOURS, Flavour, described, grows_into, instance, plain

from greenroom.constraints.structures import MISSING, Snapshots

PAIRS = 200
"""Of each flavour."""
BATCHES = 4


def followed(kind: Any, chunks: list[str], **options: Any) -> tuple[list[Any], Any]:
    """Every snapshot that differs, as it was when it was taken; and the last one."""
    snapshots: Snapshots[Any] = Snapshots(kind, **options)
    taken: list[Any] = []
    kept: list[Any] = []
    for chunk in chunks:
        if snapshots.feed(chunk) and (value := snapshots.snapshot()) is not MISSING:
            taken.append(copy.deepcopy(plain(value)))
            kept.append(value)
    if snapshots.finish():
        kept.append(snapshots.snapshot())
        taken.append(plain(kept[-1]))
    assert snapshots.is_complete
    assert [plain(value) for value in kept] == taken, "a snapshot was changed by later chunks"
    return taken, snapshots.snapshot()


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
def test_a_random_object_grows_into_its_plain_parse(flavour: Flavour, batch: int) -> None:
    """With fields left out, nothing that was shown is ever taken back; no snapshot is changed by a later chunk."""
    for seed in range(batch * PAIRS // BATCHES, (batch + 1) * PAIRS // BATCHES):
        rng = random.Random(f"{flavour.name} {seed}")  # noqa: S311 - no secret
        description = described(rng)
        kind = flavour.type_of(description)
        value = instance(rng, description)
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        wanted = flavour.parse(kind, text)
        given = kind.model_json_schema() if flavour.name == "schema" else kind
        validate: Literal["closed", "final"] = rng.choice(["closed", "final"])
        chunks = pieces(text, [rng.randint(1, 9) for _ in range(7)])
        taken, last = followed(given, chunks, missing="omit", validate=validate)
        assert last == wanted, (seed, text)
        assert plain(last) == plain(wanted), (seed, text)
        for moment in taken:
            assert grows_into(moment, plain(wanted)), (seed, text, moment)


def test_there_are_a_thousand_pairs() -> None:
    """As many as are promised."""
    assert PAIRS * len(FLAVOURS) >= 1000
