"""From a Python function, or a class with `run`, to a `ToolSpec`.

    @tool(permissions={"network"}, zh="查询天气。")
    def weather(city: str, days: int = 1) -> str:
        '''Tells the weather of a city.

        Args:
            city: its name.
            days: how many days ahead.
        '''

Type hints and defaults become the JSON Schema (by pydantic), the docstring's first paragraph the description, its
`Args` the descriptions of parameters. A parameter of type `Image` is the bytes of a picture, which callers name by id.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, create_model

from aquila.chat.tool_result import ToolResult
from aquila.chat.toolspec import Body, Permission, ToolSpec
from aquila.errors import ConfigError

Image = Annotated[bytes, WithJsonSchema({"type": "string", "format": "image"})]
Declared = TypeVar("Declared", bound=Callable[..., Any])
_OPTIONS = "__aquila_tool__"
_ARGUMENT = re.compile(r"(\w+)(?:\s*\([^)]*\))?:\s*(.*)")
_SECTION = re.compile(r"[A-Z]\w*:")


def tool(
    *,
    name: str = "",
    zh: str = "",
    body: Body = "auto",
    permissions: Iterable[Permission] = (),
    timeout_seconds: float = 60.0,
) -> Callable[[Declared], Declared]:
    """Says more about a tool than its signature can. See `ToolSpec` for the fields."""
    options = {
        "name": name,
        "zh": zh,
        "body": body,
        "permissions": frozenset(permissions),
        "timeout_seconds": timeout_seconds,
    }

    def mark(declared: Declared) -> Declared:
        setattr(declared, _OPTIONS, options)
        return declared

    return mark


def spec_of(declared: Any, *, name: str = "", source: str = "", origin: str = "") -> ToolSpec:
    """The tool that a function, a class or a ready `ToolSpec` declares.

    Args:
        declared: what a plug-in offers. A class is made without arguments; its `run` is the function.
        name: instead of the function's own.
        source: `module:name` it was imported from.
        origin: for lists.

    Raises:
        ConfigError: it is none of these, or its signature has no JSON Schema.
    """
    if isinstance(declared, ToolSpec):
        return declared
    options: Mapping[str, Any] = getattr(declared, _OPTIONS, {})
    name = name or options.get("name") or getattr(declared, "__name__", "")
    function = declared().run if inspect.isclass(declared) and hasattr(declared, "run") else declared
    if not callable(function) or inspect.isclass(function):
        raise ConfigError(f"tool {name or declared!r}: must be a function, a class with `run`, or a ToolSpec")
    about, arguments = _read_docstring(inspect.getdoc(declared) or inspect.getdoc(function) or "")
    try:
        model = _arguments_model(name, function, arguments | _read_docstring(inspect.getdoc(function) or "")[1])
        schema = _without_titles(model.model_json_schema())
    except (TypeError, NameError, ValueError) as error:  # pydantic's own errors are ValueErrors and TypeErrors
        raise ConfigError(f"tool {name}: its signature has no JSON Schema: {error}") from None
    description = {"en": about} | ({"zh": options["zh"]} if options.get("zh") else {})
    return ToolSpec(
        name=name,
        description=description,
        parameters=schema,
        body=options.get("body", "auto"),
        permissions=options.get("permissions", frozenset()),
        timeout_seconds=options.get("timeout_seconds", 60.0),
        run=_checked(model, function),
        source=source,
        origin=origin,
    )


def _arguments_model(name: str, function: Callable[..., Any], about: Mapping[str, str]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"parameter {parameter.name!r} cannot be given by name")
        if parameter.name not in hints:
            raise TypeError(f"parameter {parameter.name!r} has no type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (
            hints[parameter.name],
            Field(default, description=about.get(parameter.name), alias=parameter.name),
        )
    # keys are made up: pydantic reserves some names for itself, and a parameter may be called one of them
    numbered = {f"argument_{index}": value for index, value in enumerate(fields.values())}
    return create_model(name, __config__=ConfigDict(extra="forbid"), **numbered)


def _checked(model: type[BaseModel], function: Callable[..., Any]) -> Callable[..., Any]:
    names = [field.alias for field in model.model_fields.values()]

    def run(**arguments: Any) -> Any:
        try:
            values = model.model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        given = zip(names, model.model_fields, strict=True)
        return function(**{str(name): getattr(values, field) for name, field in given})

    return run


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph, and what `Args:` says of each."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    arguments: dict[str, str] = {}
    lines = iter(text.splitlines())
    last = ""
    for line in lines:
        if line.strip() in ("Args:", "Arguments:"):
            break
    for line in lines:
        if _SECTION.fullmatch(line.strip()) and not line.startswith(" "):
            break
        match = _ARGUMENT.match(line.strip())
        if match and (len(line) - len(line.lstrip()) <= 4):
            last = match[1]
            arguments[last] = match[2]
        elif last and line.strip():
            arguments[last] += f" {line.strip()}"
    return paragraph, arguments


def _without_titles(value: Any) -> Any:
    """The schema without the titles that pydantic makes up: they cost a model tokens and tell it nothing."""
    if isinstance(value, dict):
        return {
            key: _without_titles(each)
            for key, each in value.items()
            if not (key == "title" and isinstance(each, str)) and not (key == "default" and each is None)
        }
    return [_without_titles(each) for each in value] if isinstance(value, list) else value


__all__ = ["Image", "ToolResult", "spec_of", "tool"]
