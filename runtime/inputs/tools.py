"""Tools: functions, or schemas, that a model may call."""

from __future__ import annotations

import inspect
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
from anyio import to_thread
from jsonschema import Draft202012Validator, SchemaError
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing.exceptions import Unresolvable

from greenroom.constraints.bounds.schema_bounds import check_schema
from greenroom.constraints.grammar_warning import GrammarWarning
from greenroom.constraints.json_schemas.patterns import PatternTimeout, PatternValidator
from greenroom.errors import InvalidConstraint, InvalidParameter, NotSupported, ToolFailed
from greenroom.inputs.tool_schemas import plain_types
from greenroom.lifetimes import contained
from greenroom.values import function as check_function

__all__ = ["Tool", "Toolbox", "Tools"]

_PLAIN = (str, int, float, bool, type(None))
"""Defaults that the schema tells the model."""
_NAME = re.compile(r"[\w.\-]{1,128}")


class Tool:
    """A name, what it is for, a JSON schema of its arguments, and perhaps the function that does it.

    Made by `from_function` or `from_schema`. Raises `InvalidParameter` for a name or a schema that is none. Gives a
    `GrammarWarning` for each pattern of the schema that arguments are not checked against: one with look-around, a
    back-reference or a word boundary, which takes no bounded time.
    """

    def __init__(
        self,
        name: Any,
        description: Any = "",
        parameters: Any = None,
        function: Callable[..., Any] | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidParameter("a tool's name", name, "letters, digits, '_', '-' and '.', at most 128")
        if not isinstance(description, str):
            raise InvalidParameter(f"the description of the tool {name!r}", description, "a string")
        self.name: str = name
        self.description = description
        given = {"type": "object", "properties": {}} if parameters is None else parameters
        self.parameters = _checked_schema(name, given)
        check_function(f"the function of the tool {name!r}", function)
        self.function = function
        self._arguments: type[msgspec.Struct] | None = None
        self._validator = _validator(name, self.parameters)

    def __repr__(self) -> str:
        return f"<Tool {self.name}{'' if self.function is None else '()'}>"

    @classmethod
    def from_function(
        cls, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> Tool:
        """A tool from a function, sync or async: its name, its docstring and the types of its parameters.

        Types are what msgspec can read from JSON: plain types, containers, literals, enums, dataclasses, structs,
        `Annotated[…, msgspec.Meta(description=…)]`. Lines of the docstring's `Args:` describe parameters. Raises
        `InvalidParameter` where a parameter has no type, is positional-only or takes any number of arguments.
        """
        given: object = function
        if given is None or not callable(given):
            raise InvalidParameter("a tool's function", given, "a function")
        called = str(name or getattr(function, "__name__", type(function).__name__))
        text = inspect.getdoc(function) or ""
        summary, descriptions = _split_docstring(text)
        try:
            arguments = _struct(function, called)
            (schema,), definitions = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
        except InvalidParameter:
            raise
        except Exception as error:  # no signature, a name that leads nowhere, a type that JSON has not
            expected = f"one whose parameters have types that JSON can say: {error}"
            raise InvalidParameter("a tool's function", function, expected) from error
        root = dict(definitions.pop(schema["$ref"].rpartition("/")[2]))
        root.pop("title", None)
        for key, value in root.get("properties", {}).items():
            if key in descriptions and "description" not in value:
                value["description"] = descriptions[key]
            if "type" not in value and all(isinstance(choice, str) for choice in value.get("enum", [0])):
                value["type"] = "string"  # templates that write signatures ask for it
        if definitions:
            root["$defs"] = definitions
        tool = cls(called, summary if description is None else description, root, function)
        tool._arguments = arguments
        return tool

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any], function: Callable[..., Any] | None = None) -> Tool:
        """A tool from OpenAI's form: `{"type": "function", "function": {…}}`, or what stands inside of it."""
        given: object = schema
        inner = given.get("function", given) if isinstance(given, Mapping) else None
        if not isinstance(inner, Mapping) or "name" not in inner:
            raise InvalidParameter("a tool", schema, 'a function, a Tool, or {"type": "function", "function": {…}}')
        return cls(inner["name"], inner.get("description") or "", inner.get("parameters"), function)

    @property
    def schema(self) -> dict[str, Any]:
        """OpenAI's form, as chat templates want it. A new dict each time."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """What is wrong with `arguments` by the schema, in one sentence; None where they fit."""
        try:
            error = self._validator.best_error(dict(arguments))
        except (RecursionError, Unresolvable, PatternTimeout) as failure:
            return _unchecked(failure)
        if error is None:
            return None
        place = "/".join(map(str, error.absolute_path))
        return f"{error.message} (at /{place})" if place else str(error.message)

    def has_default(self, name: str) -> bool:
        """Whether the function does without its argument `name`, whatever the schema says of it."""
        optional = self.parameters.get("properties", {}).keys() - self.parameters.get("required", ())
        return self._arguments is not None and name in optional

    def takes(self, name: str, value: Any) -> bool:
        """Whether `value` fits what the schema says of the argument `name`, as far as it says anything."""
        properties = self.parameters.get("properties")
        return self.takes_by(properties.get(name, True) if isinstance(properties, Mapping) else True, value)

    def takes_by(self, schema: Any, value: Any) -> bool:
        """Whether `value` fits `schema`, which may refer to definitions of the tool's."""
        try:
            return self._validator.takes(value, schema)
        except (RecursionError, Unresolvable, PatternTimeout):
            return False

    async def call(self, arguments: Mapping[str, Any]) -> Any:
        """Run the function. A sync one runs on a worker thread, which a cancellation leaves behind.

        Raises `NotSupported` without a function, `ToolFailed` for arguments that its types do not take, and whatever
        the function raises.
        """
        if self.function is None:
            raise NotSupported(f"calling the tool {self.name!r}", "it has a schema and no function")
        values: dict[str, Any] = dict(arguments)
        if self._arguments is not None:
            try:
                struct = msgspec.convert(values, self._arguments)
            except msgspec.ValidationError as error:
                raise ToolFailed(f"the arguments do not fit: {error}") from error
            given = {field.encode_name: field.name for field in msgspec.structs.fields(self._arguments)}
            values = {key: getattr(struct, given[key]) for key in values if key in given}
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**values)
        work = partial(contained, f"the tool {self.name!r}", partial(self.function, **values))
        result = await to_thread.run_sync(work, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result


def _checked_schema(name: str, schema: Any) -> dict[str, Any]:
    """`schema` as a dict. Raises `InvalidParameter` where it is none, or too deep or too large to check."""
    what = f"the schema of the tool {name!r}"
    if not isinstance(schema, Mapping):
        raise InvalidParameter(what, schema, "a JSON schema, as a dict")
    try:
        check_schema(schema)
        schema = plain_types(name, schema)
        Draft202012Validator.check_schema(schema)
    except InvalidConstraint as error:
        raise InvalidParameter(what, _clipped(schema), f"one that can be checked: {error}") from None
    except RecursionError:
        raise InvalidParameter(what, _clipped(schema), "nested less deeply: Python cannot check it") from None
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        raise InvalidParameter(f"{what} at /{place}", error.instance, error.message) from None
    return dict(schema)


def _validator(name: str, schema: dict[str, Any]) -> PatternValidator:
    """Of arguments. What a schema refers to elsewhere is not fetched."""
    try:
        validator = PatternValidator(schema, Draft202012Validator, registry=REGISTRY)
    except InvalidConstraint as error:
        raise InvalidParameter(
            f"the schema of the tool {name!r}", _clipped(schema), f"one that can be checked: {error}"
        ) from None
    for pattern, why in validator.unchecked.items():
        message = f"arguments of the tool {name!r} are not checked against the pattern {pattern!r}: {why}"
        warnings.warn(message, GrammarWarning, stacklevel=4)
    return validator


def _clipped(schema: Mapping[str, Any]) -> str:
    return f"one of the keys {', '.join(map(str, schema))[:60]}"


def _unchecked(failure: Exception) -> str:
    if isinstance(failure, RecursionError):
        return "the arguments are nested too deeply to be checked"
    if isinstance(failure, PatternTimeout):
        return f"the arguments could not be checked: {failure}"
    return f"the tool's schema refers to what is not in it: {failure}"


Tools = Sequence[Tool | Mapping[str, Any] | Callable[..., Any]]
"""What may be given as `tools=`."""


class Toolbox:
    """The tools of one request, by name. Raises `InvalidParameter` for what is no tool, and for a name given twice."""

    def __init__(self, tools: Tools) -> None:
        if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
            raise InvalidParameter("tools", tools, "a sequence of tools")
        try:
            given = list(tools)
        except TypeError as error:  # an array without dimensions says that it can be iterated over
            raise InvalidParameter("tools", tools, "a sequence of tools") from error
        self._tools: dict[str, Tool] = {}
        for each in given:
            tool = _tool(each)
            if tool.name in self._tools:
                raise InvalidParameter("tools", tool.name, "tools of different names")
            self._tools[tool.name] = tool
        self.schemas = [tool.schema for tool in self._tools.values()]
        """OpenAI's form of each, for templates and parsers."""

    def __repr__(self) -> str:
        return f"<Toolbox {' '.join(self._tools)}>"

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __len__(self) -> int:
        return len(self._tools)

    def get(self, name: str) -> Tool | None:
        """The tool of that name."""
        return self._tools.get(name)

    def select(self, name: str | None) -> tuple[Tool, ...]:
        """Each tool, or the one of that `name`. Raises `InvalidParameter` for a name that is none of theirs."""
        if name is not None and name not in self._tools:
            raise InvalidParameter("the tool's name", name, f"one of {', '.join(self.names())}")
        return tuple(tool for tool in self if name in (None, tool.name))

    def names(self) -> tuple[str, ...]:
        """Every name, in the order given."""
        return tuple(self._tools)


def _tool(given: object) -> Tool:
    if isinstance(given, Tool):
        return given
    if isinstance(given, Mapping):
        return Tool.from_schema(given)
    if callable(given):
        return Tool.from_function(given)
    raise InvalidParameter("a tool", given, "a Tool, a function or a schema")


def _struct(function: Callable[..., Any], name: str) -> type[msgspec.Struct]:
    """A struct with one field a parameter. Fields have names of their own: a parameter may be called anything."""
    hints = typing.get_type_hints(function, include_extras=True)
    fields: list[tuple[str, Any, Any]] = []
    renamed: dict[str, str] = {}
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidParameter(f"the parameter {parameter.name!r} of {name}()", str(parameter), "given by its name")
        if parameter.name not in hints:
            raise InvalidParameter(f"the parameter {parameter.name!r} of {name}()", "no type", "annotated with a type")
        default: Any = msgspec.NODEFAULT
        if isinstance(parameter.default, _PLAIN):
            default = parameter.default
        elif parameter.default is not parameter.empty:
            default = msgspec.field(default_factory=partial(_same, parameter.default))
        renamed[f"field_{place}"] = parameter.name
        fields.append((f"field_{place}", hints[parameter.name], default))
    return msgspec.defstruct(name, fields, rename=renamed, kw_only=True, forbid_unknown_fields=True)


def _same(value: Any) -> Any:
    return value


_ARGUMENT = re.compile(r"\s+\*{0,2}(\w+)(?:\s*\([^)]*\))?\s*:\s*(.+)")


def _split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text in front of the sections, and what `Args:` says of each parameter (Google's form)."""
    head, _, rest = re.sub(r"^(Args|Arguments|Parameters):[ \t]*$", "\0", text, count=1, flags=re.MULTILINE).partition(
        "\0"
    )
    head = re.split(r"^(?:Returns|Raises|Yields|Examples?):", head, maxsplit=1, flags=re.MULTILINE)[0]
    descriptions: dict[str, str] = {}
    last: str | None = None
    for line in rest.splitlines():
        if line.strip() and not line[0].isspace():
            break
        match = _ARGUMENT.fullmatch(line)
        if match is not None:
            last = match.group(1)
            descriptions[last] = match.group(2).strip()
        elif last is not None and line.strip():
            descriptions[last] += " " + line.strip()
    return " ".join(head.split()), descriptions
