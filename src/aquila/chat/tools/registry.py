"""Where tools come from: this package, plug-ins (entry points of the group `aquila.tools`), MCP servers.

    [project.entry-points."aquila.tools"]
    weather = "my_package.weather:weather"

The entry point's name is the tool's name. Listing imports nothing; a tool is imported when it is asked for by name.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from aquila.chat.mcp import McpServer, read_servers
from aquila.chat.tools.declare import spec_of
from aquila.chat.toolspec import ToolSpec
from aquila.config import suggest
from aquila.errors import ConfigError

GROUP = "aquila.tools"
MCP_SERVER = "MCP server"
BUILT_IN = {  # tools with a module behind them run in a process of their own
    "calculator": "aquila.chat.tools.calculator:calculator",
    "datetime": "aquila.chat.tools.clock:datetime",
    "text2image": "",
    "InstructFace": "",
}


@dataclass(frozen=True)
class ToolSettings:
    """What tools need to know of the machine.

    Attributes:
        image_model: folder of a diffusers model that draws.
        edit_model: folder of an InstructPix2Pix model.
        mcp_config: JSON file with `mcpServers`.
    """

    image_model: Path | None = None
    edit_model: Path | None = None
    mcp_config: Path | None = None


class ToolBox:
    """Tools that were asked for by name, ready to run; closing it ends the MCP servers.

    Args:
        names: of tools. The name of an MCP server stands for all its tools.
        settings: see there.

    Raises:
        ConfigError: no such tool, a plug-in that cannot be imported, a server that does not start.
    """

    def __init__(self, names: Iterable[str], settings: ToolSettings | None = None) -> None:
        settings = settings or ToolSettings()
        names = tuple(dict.fromkeys(names))
        check_names(names, settings)
        plugins = _plugins()
        self._stack = ExitStack()
        servers = read_servers(settings.mcp_config) if settings.mcp_config else {}
        self.tools: list[ToolSpec] = []
        try:
            started: dict[str, list[ToolSpec]] = {}
            for name in names:
                if name in BUILT_IN:
                    self.tools.append(_built_in(name, settings))
                elif name in plugins:
                    self.tools.append(_plugin(plugins[name]))
                else:
                    self.tools += self._from_servers(name, servers, started)
        except BaseException:
            self.close()
            raise

    def _from_servers(
        self, name: str, servers: Mapping[str, McpServer], started: dict[str, list[ToolSpec]]
    ) -> list[ToolSpec]:
        server = _server_of(name, dict.fromkeys(servers, MCP_SERVER))
        assert server is not None, "names were checked"
        if server not in started:
            client = self._stack.enter_context(servers[server].connect())
            started[server] = client.tools()
        if name == server:
            return started[server]
        found = [tool for tool in started[server] if tool.name == name]
        if not found:
            names = [tool.name for tool in started[server]]
            raise ConfigError(f"the MCP server {server!r} has no tool {name!r}{suggest(name, names)}")
        return found

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> "ToolBox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def check_names(names: Iterable[str], settings: ToolSettings | None = None) -> None:
    """`ConfigError` for a name that nothing can answer to; imports and starts nothing, so it is quick."""
    known = tool_names(settings)
    for name in names:
        if name not in known and _server_of(name, known) is None:
            raise ConfigError(f"no tool of `aquila tools list` is called {name!r}{suggest(name, known)}")


def _server_of(name: str, names: Mapping[str, str]) -> str | None:
    """The MCP server whose tool this may be."""
    servers = [each for each, origin in names.items() if origin == MCP_SERVER]
    return next((each for each in servers if name == each or name.startswith(f"{each}_")), None)


def tool_names(settings: ToolSettings | None = None) -> dict[str, str]:
    """Every tool that can be asked for by name, and where it comes from; of MCP servers the server's name."""
    names = dict.fromkeys(BUILT_IN, "built in")
    names |= {name: f"plug-in: {point.value}" for name, point in _plugins().items()}
    config = settings.mcp_config if settings else None
    return names | dict.fromkeys(read_servers(config) if config else {}, MCP_SERVER)


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def _built_in(name: str, settings: ToolSettings) -> ToolSpec:
    if not BUILT_IN[name]:
        from aquila.chat.tools.image_tools import image_tool  # noqa: PLC0415  only where it is asked for

        return image_tool(name, image_model=settings.image_model, edit_model=settings.edit_model)
    point = EntryPoint(name, BUILT_IN[name], GROUP)
    return spec_of(point.load(), name=name, source=point.value, origin="built in")


def _plugin(point: EntryPoint) -> ToolSpec:
    try:
        declared = point.load()
    except Exception as error:  # noqa: BLE001  whatever somebody else's module raises
        raise ConfigError(
            f"the tool {point.name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from None
    source = "" if isinstance(declared, ToolSpec) else point.value
    return spec_of(declared, name=point.name, source=source, origin=f"plug-in: {point.value}")
