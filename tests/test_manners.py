"""Calls in the manners in which models were seen to write them: what each is read as, at every cut."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from test_call_frames import check

ROOT = Path(__file__).resolve().parents[1]
RM = '{"arguments": {"path": "a"}, "name": "rm"}'
LIST = "[rm(path='a'), find()]"
CALLS = ["rm(path='a')", "find()"]
HERMES = [
    (f"<tool_call>\n{RM}\n</tool_call>\n", ["rm(path='a')", "\n"]),
    (f"<tool_call>\n{RM}\n</tool_call>\n<tool_call>\n{RM}\n</tool_call>", ["rm(path='a')"] * 2),
    (f"<tool_call>\n{RM}\n<tool_call>\n<tool_call>\n{RM}\n</tool_call>", ["rm(path='a')"] * 2),
    (f"<tool_call>\n{RM}\n{RM}\n</tool_call>", ["!m"]),
    (f"<tool_call>\n{RM},\n</tool_call>", ["!m"]),
    ("<tool_call>\n{\"arguments\": {'path': 'a'}, \"name\": 'rm'}\n</tool_call>", ["!m"]),
    (
        f"I can help you with that.\n\n<|im_start|>\n{RM}\n<|im_start|>",
        [f"I can help you with that.\n\n<|im_start|>\n{RM}\n<|im_start|>"],
    ),
    (f"I will call it:\n\n{RM}\n\nIs that all?", [f"I will call it:\n\n{RM}\n\nIs that all?"]),
    (f"Here it is:\n{RM}\n</tool_call>", ["Here it is:\n", "!m"]),
    ('<tool_call>\n{"arguments": {"path": "a"}, "name": "remove"}\n</tool_call>', ["!u"]),
    ('<tool_call>\n{"arguments": {"n": "twelve"}, "name": "set"}\n</tool_call>', ["!a"]),
    (
        '<tool_call>\n{"arguments": {"text": "def f():\n\treturn 1\n"}, "name": "write"}\n</tool_call>',
        ["write(text='def f():\\n\\treturn 1\\n')"],
    ),
    ("Sorry, none of the functions can be used.", ["Sorry, none of the functions can be used."]),
]
PYTHON = [
    (LIST, CALLS),
    (f"\n\n{LIST}", ["\n\n", *CALLS]),
    (f"{LIST}\n", [*CALLS, "\n"]),
    (f"    {LIST}", ["    ", *CALLS]),
    ("[\n    rm(path='a'),\n    find()\n]", CALLS),
    ("[rm(path='a')]\n[find()]", CALLS),
    ("[rm(path='a')], [find()]", ["rm(path='a')", ", [find()]"]),
    ("[rm(path='a')], find()]", ["rm(path='a')", ", find()]"]),
    (f"```python\n{LIST}\n```", ["```python\n", *CALLS, "\n```"]),
    (f"```\n{LIST}\n```\n\nThe first one removes it.", ["```\n", *CALLS, "\n```\n\nThe first one removes it."]),
    (f"{LIST}\n\nThe call `rm(path='a')` removes it.", [*CALLS, "\n\nThe call `rm(path='a')` removes it."]),
    (f"Here are the calls:\n\n{LIST}", ["Here are the calls:\n\n", *CALLS]),
    (f"Here are the calls: {LIST}", [f"Here are the calls: {LIST}"]),
    ("rm(path='a')", ["rm(path='a')"]),
    ("[\"rm(path='a')\", 'find()']", ["[\"rm(path='a')\", 'find()']"]),
    ("['rm(path=a)']", ["['rm(path=a)']"]),
    ("[{'name': 'rm', 'arguments': {'path': 'a'}}]", ["[{'name': 'rm', 'arguments': {'path': 'a'}}]"]),
    (r"[r\_m(path='a')]", [r"[r\_m(path='a')]"]),
    ("[set(x=1/6)]", ["!m"]),
    ("[set(n=2**10)]", ["!m"]),
    ("[set(items=list(range(3)))]", ["!m"]),
    ("[rm({'path': 'a'})]", ["!m"]),
    ("[rm(path=find())]", ["!m"]),
    ("[rm(path=name)]", ["!m"]),
    ("[set(items=[(1, 2), (3, 4)])]", ["set(items=[[1, 2], [3, 4]])"]),
    ("[set(x=-9.8, on=True, maybe=None)]", ["set(x=-9.8, on=True, maybe=None)"]),
    ("[write(text='it\\'s \"so\"\\n')]", ["write(text='it\\'s \"so\"\\n')"]),
    ("[write(text='say \"[rm(path=1)]\"')]", ["write(text='say \"[rm(path=1)]\"')"]),
    ("[]", ["[]"]),
    ("[rm(path='a'", ["!m"]),
]


def test_hermes() -> None:
    """In tags and without them, twice, and with quotes that no JSON has."""
    for text, found in HERMES:
        check("json_tools", text, found)


def test_lists_of_calls() -> None:
    """Between fences and words, over lines, as strings and dicts, with what is no literal."""
    for text, found in PYTHON:
        check("llama4_pythonic", text, found)


def test_results_are_read_by_the_script(tmp_path: Path) -> None:
    """Of models that wrote texts; which tools there are is known from those that gave calls."""
    folder = tmp_path / "2024-01-01" / "result"
    results = {"one": LIST, "Hermes": f"<tool_call>{RM}</tool_call>", "two-FC": [{"rm": "{}"}, {"find": "{}"}]}
    for model, result in results.items():
        (folder / model).mkdir(parents=True)
        (folder / model / "simple_result.json").write_text(json.dumps({"id": 0, "result": result}))
    script = str(ROOT / "benchmarks" / "bfcl_results.py")
    said = subprocess.run([sys.executable, script, str(tmp_path), "--sample", "2"], capture_output=True, check=True)
    lines = said.stdout.decode().splitlines()
    assert "json_tools: 1 models, {'outputs': 1, 'calls': 1, 'rejections': 0, 'text alone': 0}" in lines
    assert "llama4_pythonic: 1 models, {'outputs': 1, 'calls': 2, 'rejections': 0, 'text alone': 0}" in lines
    assert json.loads(lines[-1])["read"] == CALLS
