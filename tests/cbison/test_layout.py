"""The structures are the ones that a C compiler makes of our own declaration."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
from cbison_engines import SOURCES, compiler

from greenroom.constraints.cbison import layout

STRUCTS = {
    "cbison_tokenizer": layout.TokenizerStruct,
    "cbison_factory": layout.FactoryStruct,
    "cbison_mask_req": layout.MaskRequest,
}


def test_sizes_and_offsets_are_those_of_the_compiled_header(tmp_path: Path) -> None:
    """`sizeof` and `offsetof` of every field, as gcc lays the header out."""
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} {name} %zu %zu\\n", (size_t)0, sizeof(struct {name}));')
        for field, *_ in struct._fields_:
            where, size = f"offsetof(struct {name}, {field})", f"sizeof(((struct {name} *)0)->{field})"
            lines.append(f'printf("{name} {field} %zu %zu\\n", {where}, {size});')
    source = tmp_path / "layout.c"
    source.write_text('#include <stdio.h>\n#include "cbison.h"\nint main(void) {\n' + "\n".join(lines) + "\n}\n")
    program = tmp_path / "layout"
    subprocess.run([compiler(), "-I", str(SOURCES), str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split("\n")
    found = {tuple(line.split()[:2]): tuple(map(int, line.split()[2:])) for line in printed if line}
    expected = {}
    for name, struct in STRUCTS.items():
        expected[name, name] = (0, ctypes.sizeof(struct))
        for field, *_ in struct._fields_:
            place = getattr(struct, field)
            expected[name, field] = (place.offset, place.size)
    assert found == expected


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="the documented numbers are those of 64-bit machines")
def test_sizes_are_the_documented_ones() -> None:
    """232, 328 and 16 bytes; the layout before reference counts had 320."""
    assert [ctypes.sizeof(struct) for struct in STRUCTS.values()] == [232, 328, 16]
    assert layout.FactoryStruct.new_matcher.offset == 96
    assert layout.FactoryStruct.compute_masks.offset == 192
    assert layout.TokenizerStruct.get_token.offset == 64
