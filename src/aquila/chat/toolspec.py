"""What a tool is: a name, what it is for, what it takes, what it may do, and the function that does it.

One `ToolSpec` is the source of everything else: the listing in the system message, the parser, the renderer, the
grammar that forces a call, OpenAI's `tools` entry, the page's card and the execution.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aquila.config import suggest
from aquila.errors import ConfigError

Body = Literal["auto", "text", "lines", "json"]
Permission = Literal["network", "write", "exec"]

MAX_NAME = 128  # the longest that clients in use send
NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,127}")
PERMISSIONS: tuple[Permission, ...] = ("network", "write", "exec")
BODIES: tuple[Body, ...] = ("auto", "text", "lines", "json")
LANGUAGES = ("en", "zh")
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class ToolSpec:
    """A tool.

    Attributes:
        name: letters, digits, `_` and `-`; case counts.
        description: language ("en", "zh") -> what it does; one of them is enough.
        parameters: JSON Schema of an object.
        body: how its arguments are written in the special instruction specification; "auto" goes by the schema.
        permissions: what running it may do beyond computing; each run asks for it.
        timeout_seconds: longest run.
        run: takes the arguments by name; None for a tool that somebody else runs.
        source: `module:name` from which another process can import it, to run it there with limits; empty for a tool
            that holds a connection or a loaded model and runs here.
        origin: where it came from, for lists: "built in", a package, an MCP server, or "request".

    Raises:
        ConfigError: the name, the schema, the body or a permission is not usable.
    """

    name: str
    description: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMETERS)
    body: Body = "auto"
    permissions: frozenset[Permission] = frozenset()
    timeout_seconds: float = 60.0
    run: Callable[..., Any] | None = None
    source: str = ""
    origin: str = "request"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(f"tool name {self.name[:80]!r}: use 1 to {MAX_NAME} letters, digits, '_' and '-'")
        if self.body not in BODIES:
            raise ConfigError(f"tool {self.name}: body {self.body!r} is unknown{suggest(self.body, BODIES)}")
        for each in self.permissions:
            if each not in PERMISSIONS:
                raise ConfigError(f"tool {self.name}: permission {each!r} is unknown{suggest(each, PERMISSIONS)}")
        kind = self.parameters.get("type", "object")
        if kind != "object" or not isinstance(self.parameters.get("properties", {}), Mapping):
            raise ConfigError(f"tool {self.name}: parameters must be a JSON Schema of an object, not {kind!r}")
        if self.body in ("text", "lines") and self.form != self.body:
            raise ConfigError(
                f"tool {self.name}: body {self.body!r} needs exactly one required parameter, a "
                f"{'string' if self.body == 'text' else 'array of strings'}"
            )

    @property
    def properties(self) -> Mapping[str, Any]:
        return self.parameters.get("properties", {})

    @property
    def required(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("required", ()))

    @property
    def argument(self) -> str:
        """The parameter that a text or lines body fills; empty for JSON bodies."""
        return self.required[0] if self.form != "json" else ""

    @property
    def form(self) -> Literal["text", "lines", "json"]:
        """The body, decided: the only required parameter is a string, or an array of strings, or anything else."""
        if self.body == "json" or len(self.required) != 1:
            return "json"
        schema = self.properties.get(self.required[0], {})
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        if kind == "string" and "enum" not in schema:
            return "text"
        items = schema.get("items") if kind == "array" else None
        return "lines" if isinstance(items, Mapping) and items.get("type") == "string" else "json"

    def describe(self, language: str) -> str:
        """What it does, in the language if there is a text for it."""
        texts = [self.description.get(each, "") for each in (language, *LANGUAGES)]
        return next((text for text in texts if text), "")

    def to_openai(self, language: str = "en") -> dict[str, Any]:
        """An entry of the `tools` list of a chat request."""
        function = {"name": self.name, "description": self.describe(language), "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def tool_from_openai(entry: Mapping[str, Any], where: str = "tools[0]") -> ToolSpec:
    """A tool as a client declares it. `ConfigError` names the field, starting at `where`."""
    function = entry.get("function")
    if entry.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise ConfigError(f"{where}: only tools of type 'function' with a 'function' object are understood")
    name, about = function.get("name"), function.get("description") or ""
    parameters = function.get("parameters") or NO_PARAMETERS
    if not isinstance(name, str) or not isinstance(about, str) or not isinstance(parameters, Mapping):
        raise ConfigError(f"{where}.function: name and description must be strings and parameters an object")
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        raise ConfigError(f"{where}.function.parameters.required: must be a list of strings")
    try:
        return ToolSpec(name=name, description={"en": about}, parameters=parameters)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


class ToolTable:
    """Tools by the tag that calls them. A name that is no tag (`_x`, `2nd`) gets one: `tool_` and the name.

    Raises:
        ConfigError: two tools have one name.
    """

    def __init__(self, tools: Iterable[ToolSpec] = ()) -> None:
        self.tools = tuple(tools)
        self.by_name: dict[str, ToolSpec] = {}
        self.by_tag: dict[str, ToolSpec] = {}
        self._tags: dict[str, str] = {}
        for tool in self.tools:
            if tool.name in self.by_name:
                raise ConfigError(f"two tools are called {tool.name!r}; rename one")
            self.by_name[tool.name] = tool
        for tool in self.tools:
            tag = tool.name
            while not TAG_NAME.fullmatch(tag) or (tag != tool.name and tag in self.by_name):
                tag = f"tool_{tag}"[: MAX_NAME + 5]
            self.by_tag[tag] = tool
            self._tags[tool.name] = tag

    def tag(self, name: str) -> str:
        """The tag of a tool; of a name that is not in the table, the name, made a tag."""
        if name in self._tags:
            return self._tags[name]
        return name if TAG_NAME.fullmatch(name) else f"tool_{re.sub(r'[^A-Za-z0-9_-]', '_', name)}"[:MAX_NAME]

    def __bool__(self) -> bool:
        return bool(self.tools)


def compact_json(value: Any) -> str:
    """JSON on one line, without blanks, Chinese as it is."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
