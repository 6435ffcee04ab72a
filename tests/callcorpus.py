"""What models write: raw messages in every format, right and wrong, with what is to be found in each."""

from __future__ import annotations

from typing import Any, NamedTuple

from greenroom import Chunk, Reasoning, RejectedToolCall, ToolCall

__all__ = ["CORPUS", "TOOLS", "Sample", "merged", "shape"]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where."},
                    "days": {"type": "integer", "description": "How many."},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "The sum of two numbers.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"type": "number", "description": "The first."},
                    "b": {"type": "number", "description": "The second."},
                },
                "required": ["a", "b"],
            },
        },
    },
]


class Sample(NamedTuple):
    """One message: `found` has a word for each event, text and thinking as they are, calls by name or reason."""

    format: str
    text: str
    found: list[str]


W = "get_weather(city='Łódź')"
ADD = "add(a=1, b=2)"


def _json(name: str = "get_weather", key: str = "arguments", arguments: str = '{"city": "Łódź"}') -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


_ADD = _json("add", arguments='{"a": 1, "b": 2}')
_HERMES = f"<tool_call>\n{_json()}\n</tool_call>"
_HERMES_ADD = f"<tool_call>\n{_ADD}\n</tool_call>"
_DEEPSEEK = "<｜tool▁call▁begin｜>{}<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
_XML = "<function=get_weather>\n<parameter=city>\nŁódź\n</parameter>\n</function>"
_MINIMAX = '<invoke name="get_weather"><parameter name="city">Łódź</parameter></invoke>'
_MINIMAX_ADD = '<invoke name="add"><parameter name="a">1</parameter><parameter name="b">2</parameter></invoke>'
_GLM = "get_weather<arg_key>city</arg_key><arg_value>Łódź</arg_value>"
_KIMI = '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Łódź"}<|tool_call_end|>'
_KIMI_ADD = '<|tool_call_begin|>functions.add:1<|tool_call_argument_begin|>{"a": 1, "b": 2}<|tool_call_end|>'
_K3 = (
    '<|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>Łódź'
    "<|close|>argument<|sep|><|close|>call<|sep|>"
)
_K3_ADD = (
    '<|open|>call tool="add" index="2"<|sep|><|open|>json type="object"<|sep|>{"a": 1, "b": 2}<|close|>json<|sep|>'
    "<|close|>call<|sep|>"
)
_ATEM = '<atem:invoke name="get_weather"><atem:parameter name="city">Łódź</atem:parameter></atem:invoke>'
_CHANNEL = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"

CORPUS = [
    # Hermes and Qwen, through mlx-lm's json_tools.
    Sample("hermes", f"Let me see. {_HERMES} Done.", ["Let me see. ", W, " Done."]),
    Sample("hermes", f"{_HERMES}\n{_HERMES_ADD}", [W, ADD]),
    Sample("hermes", f"{_HERMES}{_HERMES_ADD}", [W, ADD]),
    Sample("hermes", f"One {_HERMES} two {_HERMES_ADD} three", ["One ", W, " two ", ADD, " three"]),
    Sample("hermes", f"<think>\nA <tool_call> in thought.\n</think>\n\n{_HERMES}", ["~A <tool_call> in thought.", W]),
    Sample("hermes", f"<<tool_call>{_json()}</tool_call>", ["<", W]),
    Sample(
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a </tool_call> b"}}</tool_call>',
        ["get_weather(city='a </tool_call> b')"],
    ),
    Sample("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "a</tool_call> b\nc', ["!m", " b\nc"]),
    Sample("hermes", f"<tool_call>\n{_json()}\n", [W]),
    Sample("hermes", f"<tool_call>\n{_json()}\n{_HERMES_ADD}", [W, ADD]),
    Sample("hermes", '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Łódź\\"}"}</tool_call>', [W]),
    Sample("hermes", '<tool_call>{"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}</tool_call>', [ADD]),
    Sample("hermes", "<tool_call>{not json}</tool_call> so", ["!m", " so"]),
    Sample("hermes", '<tool_call>{"name": "get_weather", "argu', ["!i"]),
    Sample("hermes", "<tool_call>" + "[" * 5000 + "</tool_call>", ["!m"]),
    Sample("hermes", '<tool_call>{"arguments": {}}</tool_call>', ["!n"]),
    Sample("hermes", '<tool_call>"add"</tool_call>', ['<tool_call>"add"</tool_call>']),
    Sample("hermes", '<tool_call>{"name": "rm", "arguments": {}}</tool_call>', ["!u"]),
    Sample("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>', ["!a"]),
    Sample("hermes", '<tool_call>{"name": "add", "arguments": [1, 2]}</tool_call>', ["!a"]),
    Sample("hermes", "a <tool_cal", ["a <tool_cal"]),
    Sample("hermes", 'A JSON answer: {"name": "get_weather"}', ['A JSON answer: {"name": "get_weather"}']),
    Sample("hermes", f"<tool_call>\n[{_json()}, {_ADD}]\n</tool_call>.", [W, ADD, "."]),
    # Llama 3: JSON at the beginning of a line, without a marker.
    Sample("llama3_json", _json(key="parameters"), [W]),
    Sample("llama3_json", f"{_json(key='parameters')}; {_json('add', 'parameters', _ADD[29:-1])}", [W, ADD]),
    Sample("llama3_json", f"<|python_tag|>{_json(key='parameters')}", [W]),
    Sample("llama3_json", f'{{"type": "function", "function": {_json(key="parameters")}}}', [W]),
    Sample("llama3_json", f"Sure.\n{_json(key='parameters')}", ["Sure.\n", W]),
    Sample("llama3_json", '{"name": "Ann", "age": 3}', ['{"name": "Ann", "age": 3}']),
    Sample("llama3_json", '{"city": "Oslo"}', ['{"city": "Oslo"}']),
    Sample("llama3_json", "a {set} of\n{ braces", ["a {set} of\n{ braces"]),
    Sample("llama3_json", '{"name": "get_weather", "parameters": {"city": "x"]', ["!m"]),
    Sample("llama3_json", '{"name": "get_weather", "parameters": {"ci', ["!i"]),
    Sample("llama3_json", _json("rm", "parameters", "{}"), ["!u"]),
    # Pythonic, bare (Llama 4) and between markers (LFM2, mlx-lm's).
    Sample("llama4_pythonic", "[get_weather(city='Łódź'), add(a=1, b=2)]", [W, ADD]),
    Sample("llama4_pythonic", "<|python_start|>[get_weather(city='Łódź')]<|python_end|>", [W]),
    Sample("llama4_pythonic", "[1, 2] and [link](x)", ["[1, 2] and [link](x)"]),
    Sample("llama4_pythonic", "[sorted(x) for x in y]", ["[sorted(x) for x in y]"]),
    Sample("llama4_pythonic", "[get_weather(city='x'", ["!i"]),
    Sample(
        "pythonic", "<|tool_call_start|>[get_weather(city='Łódź'), add(a=1, b=2)]<|tool_call_end|>ok", [W, ADD, "ok"]
    ),
    Sample(
        "pythonic",
        "<|tool_call_start|>[get_weather(city='add(a=1, b=2)') , add(a=1, b=2), add(a=1, b=2)]<|tool_call_end|>",
        ["get_weather(city='add(a=1, b=2)')", ADD, ADD],
    ),
    Sample("pythonic", "<|tool_call_start|>[]<|tool_call_end|>", ["!m"]),
    # Mistral.
    Sample("mistral", f"[TOOL_CALLS][{_json()}, {_ADD}]", [W, ADD]),
    Sample("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Łódź"}', [W]),
    Sample(
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]abc123def[ARGS]{"city": "Łódź"}[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}',
        [W, ADD],
    ),
    Sample("mistral", 'Yes.[TOOL_CALLS]add{"a": 1, "b": 2} And?', ["Yes.", ADD, " And?"]),
    Sample("mistral", '[TOOL_CALLS]my.add[ARGS]{"a": 1, "b": 2}', ["!u"]),
    Sample("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "b', ["!i"]),
    Sample("mistral", "[TOOL_CALLS]add", ["!i"]),
    Sample("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1]} x[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}', ["!m"]),
    Sample("mistral", "[THINK]hm[/THINK]Yes.", ["~hm", "Yes."]),
    # DeepSeek V3.1, and V3 and R1.
    Sample(
        "deepseek_v3",
        "<｜tool▁calls▁begin｜>"
        + _DEEPSEEK.format("get_weather", '{"city": "Łódź"}')
        + _DEEPSEEK.format("add", '{"a": 1, "b": 2}')
        + "<｜tool▁calls▁end｜>",
        [W, ADD],
    ),
    Sample(
        "deepseek_v3",
        "<｜tool▁calls▁begin｜>"
        + _DEEPSEEK.format("function", 'get_weather\n```json\n{"city": "Łódź"}\n```')
        + "\n"
        + _DEEPSEEK.format("function", "add\n```json\n{,}\n```")
        + "<｜tool▁calls▁end｜>",
        [W, "!m"],
    ),
    Sample("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{", ["!i"]),
    # Cohere.
    Sample(
        "command_r",
        'I will.\nAction:\n```json\n[\n    {\n        "tool_name": "add",\n'
        '        "parameters": {"a": 1, "b": 2}\n    }\n]```',
        ["I will.\n", ADD],
    ),
    Sample("command_r", "Action: none", ["Action: none"]),
    Sample("command_r", "Action:\n```json\n[]```", ["!m"]),
    Sample(
        "command_r7b",
        "<|START_THINKING|>I will.<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Łódź"}},\n'
        '    {"tool_call_id": "1", "tool_name": "add", "parameters": {"a": 1, "b": 2}}\n]<|END_ACTION|>',
        ["~I will.", W, ADD],
    ),
    Sample("command_r7b", "<|START_RESPONSE|>It rains.<|END_RESPONSE|>", ["It rains."]),
    # Functionary.
    Sample("functionary_v3_1", '<function=get_weather>{"city": "Łódź"}</function>', [W]),
    Sample("functionary_v3_1", '<function=get_weather>{"city": "Łódź"}', [W]),
    Sample("functionary_v3_1", "<function=get_weather>{</function>", ["!m"]),
    Sample("functionary_v3_2", '>>>all\nHi!>>>get_weather\n{"city": "Łódź"}>>>add\n{"a": 1, "b": 2}', ["Hi!", W, ADD]),
    Sample("functionary_v3_2", '>>>add\n{"a": 1', ["!i"]),
    # Firefunction, Granite, Nemotron, Seed-OSS.
    Sample("firefunction_v2", f" functools[{_json()}, {_ADD}]", [" ", W, ADD]),
    Sample("firefunction_v2", "use functools.cache", ["use functools.cache"]),
    Sample("granite", f"<|tool_call|>[{_json()}]", [W]),
    Sample("granite", f"<|tool_call|> [{_json('rm')}]", ["!u"]),
    Sample("nemotron", f"<TOOLCALL>[{_json()}, {_ADD}]</TOOLCALL>", [W, ADD]),
    Sample("nemotron", f"<TOOLCALL>[{_json()}", ["!i"]),
    Sample("seed_oss", f"<seed:think>hm</seed:think><seed:tool_call>\n{_XML}\n</seed:tool_call>", ["~hm", W]),
    # The rest of mlx-lm's.
    Sample("qwen3_coder", f"<tool_call>\n{_XML}\n</tool_call>", [W]),
    Sample("qwen3_coder", "<tool_call>\n<function=get_weather>\n</tool_call>", ["!m"]),
    Sample("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nŁ", ["!i"]),
    Sample("glm47", f"<tool_call>{_GLM}</tool_call>", [W]),
    Sample("glm47", f"<tool_call>{_GLM}", ["!i"]),
    Sample("glm47", "<tool_call>what is this thing</tool_call>", ["<tool_call>what is this thing</tool_call>"]),
    Sample("laguna", f"<tool_call>{_GLM}</tool_call>", [W]),
    Sample("longcat", f"<longcat_tool_call>{_GLM.replace('arg_', 'longcat_arg_')}</longcat_tool_call>", [W]),
    Sample("longcat", "<longcat_tool_call>?</longcat_tool_call>", ["<longcat_tool_call>?</longcat_tool_call>"]),
    Sample("minimax_m2", f"<minimax:tool_call>\n{_MINIMAX}\n{_MINIMAX_ADD}\n</minimax:tool_call>", [W, ADD]),
    Sample("minimax_m2", f"<minimax:tool_call>{_MINIMAX}<invoke name=</minimax:tool_call>", [W, "!m"]),
    Sample(
        "deepseek_v3_2",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Łódź</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="add">\n<｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="b" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜function_calls>",
        [W, ADD],
    ),
    Sample("minicpm5", '<function name="get_weather"><param name="city">Łódź</param></function>', [W]),
    Sample("muse_spark", f"<atem:function_calls>{_ATEM}</atem:function_calls>", [W]),
    Sample("kimi_k2", f"<|tool_calls_section_begin|>{_KIMI}{_KIMI_ADD}<|tool_calls_section_end|>", [W, ADD]),
    Sample("kimi_k2", f"<|tool_calls_section_begin|>{_KIMI[:-30]}<|tool_calls_section_end|>", ["!m"]),
    Sample("kimi_k3", f"<|open|>tools<|sep|>{_K3}{_K3_ADD}<|close|>tools<|sep|>", [W, ADD]),
    Sample("kimi_k3", "<|open|>response<|sep|>Hello<|close|>response<|sep|>", ["Hello"]),
    Sample("gemma4", '<|tool_call>call:get_weather{city:<|"|>Łódź<|"|>}<tool_call|>', [W]),
    Sample(
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>call:add{<|"|>}call:add{a:1,b:2}<tool_call|>',
        ["get_weather(city='call:add{')", ADD],
    ),
    Sample("gemma4", "<|tool_call>call:get_weather{city:<tool_call|>", ["!m"]),
    Sample(
        "function_gemma", "<start_function_call>call:get_weather{city:<escape>Łódź<escape>}<end_function_call>", [W]
    ),
    # Harmony.
    Sample(
        "harmony",
        f'<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{_CHANNEL}{{"city": "Łódź"}}<|call|>',
        ["~Hm.", W],
    ),
    Sample(
        "harmony",
        '<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{"a": 1, "b": 2}<|call|>',
        [ADD],
    ),
    Sample(
        "harmony",
        "<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It rains.<|return|>",
        ["I look.It rains."],
    ),
    Sample("harmony", f"{_CHANNEL}{{", ["!m"]),
    Sample("harmony", "No channels at all", ["No channels at all"]),
]

REASONS = {
    "malformed_syntax": "!m",
    "incomplete_output": "!i",
    "missing_tool_name": "!n",
    "undeclared_tool": "!u",
    "invalid_arguments": "!a",
}


def merged(events: list[Any]) -> list[Any]:
    """Neighbouring pieces of text joined, so that only what was found is compared."""
    joined: list[Any] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Chunk) and isinstance(last, Chunk):
            joined[-1] = Chunk(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text)
        else:
            joined.append(event)
    return joined


def shape(events: list[Any]) -> list[str]:
    """A word for each event, as in `Sample.found`."""
    words = []
    for event in merged(events):
        match event:
            case Chunk(text=text):
                words.append(text)
            case Reasoning(text=text):
                words.append(f"~{text}")
            case ToolCall(function=function):
                arguments = ", ".join(f"{key}={value!r}" for key, value in function.arguments.items())
                words.append(f"{function.name}({arguments})")
            case RejectedToolCall(reason=reason):
                words.append(REASONS[reason])
            case _:
                raise TypeError(type(event))
    return words
