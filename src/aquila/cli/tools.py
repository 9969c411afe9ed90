"""`aquila tools`: the tools that models can call."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aquila.chat.tool_result import ToolImage, ToolResult
    from aquila.chat.tool_runner import Confirm
    from aquila.chat.tools.registry import ToolSettings
    from aquila.chat.toolspec import ToolSpec

app = typer.Typer(help="Tools that models can call: list, explain, run.", no_args_is_help=True)

ImageModel = Annotated[Path | None, typer.Option("--image-model", help="Folder of a diffusers model that draws.")]
EditModel = Annotated[Path | None, typer.Option("--edit-model", help="Folder of an InstructPix2Pix model.")]
McpConfig = Annotated[Path | None, typer.Option("--mcp-config", help="JSON file with the `mcpServers` to use.")]
Pictures = Annotated[
    Path | None, typer.Option("--pictures", help="Folder for pictures that tools make; the cache's by default.")
]


def tool_settings(image_model: Path | None, edit_model: Path | None, mcp_config: Path | None) -> "ToolSettings":
    from aquila.chat.tools.registry import ToolSettings

    return ToolSettings(image_model=image_model, edit_model=edit_model, mcp_config=mcp_config)


@app.command("list")
def list_tools(
    mcp_config: McpConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List the tools and where they come from. MCP servers are not started for it."""
    from aquila.chat.tools.registry import tool_names

    names = tool_names(tool_settings(None, None, mcp_config))
    if as_json:
        print(json.dumps(names, ensure_ascii=False))
        return
    width = max(map(len, names))
    for name, origin in names.items():
        print(f"{name.ljust(width)}  {origin}")


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Name from `aquila tools list`, or of an MCP server.")],
    mcp_config: McpConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="The entry of a chat request's `tools`.")] = False,
) -> None:
    """Tell what a tool takes, what it may do, and how a model calls it."""
    from aquila.chat.tools.registry import ToolBox

    with ToolBox([name], tool_settings(None, None, mcp_config)) as box:
        if as_json:
            entries = [tool.to_openai() for tool in box.tools]
            print(json.dumps(entries if len(entries) > 1 else entries[0], ensure_ascii=False, indent=2))
        else:
            print("\n\n".join(_description(tool) for tool in box.tools))


def _description(tool: "ToolSpec") -> str:
    from aquila.chat.tool_prompt import aquila_system
    from aquila.chat.toolspec import ToolTable

    permissions = ", ".join(sorted(tool.permissions)) or "none"
    head = f"{tool.name}  ({tool.origin})\npermissions: {permissions}; time: {tool.timeout_seconds:g} s"
    listing = aquila_system(ToolTable([tool]), "en").partition("\n\n")[2]
    return f"{head}\nbody: {tool.form}\n\n{listing}"


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[
        str | None, typer.Argument(help="JSON, or the body as a model writes it; stdin when left out.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Picture for a tool that takes one.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Allow network, writing and programs.")] = False,
    image_model: ImageModel = None,
    edit_model: EditModel = None,
    mcp_config: McpConfig = None,
    pictures: Pictures = None,
) -> None:
    """Run a tool once: `aquila tools run calculator '6 * 7'`."""
    from aquila.chat.instructions import parse
    from aquila.chat.tool_runner import ToolRunner
    from aquila.chat.tools.registry import ToolBox
    from aquila.chat.toolspec import ToolTable
    from aquila.cli.text_input import decode_utf8
    from aquila.errors import ConfigError

    body = arguments if arguments is not None else decode_utf8(sys.stdin.buffer.read(), "standard input")
    with ToolBox([name], tool_settings(image_model, edit_model, mcp_config)) as box:
        runner = ToolRunner(box.tools, confirm=confirm_on_terminal(yes=yes), fill_image=True)
        if name not in runner.tools:
            raise ConfigError(f"{name} is an MCP server; give one of its tools: {', '.join(runner.tools)}")
        if image is not None:
            add_picture(runner.images, image)
        table = ToolTable(box.tools)
        call = parse(f"#{table.tag(name)}#\n{body}", table).calls[0]
        result = runner.run(name, call.arguments)
    if result.error:
        print(f"error: {result.text}", file=sys.stderr)
        raise typer.Exit(1)
    print(result.text)
    for path in save_pictures(result, pictures):
        print(path)


def confirm_on_terminal(*, yes: bool) -> "Confirm":
    """Asks on the terminal before a tool with permissions runs; without a terminal it refuses, unless `yes`."""

    def confirm(tool: "ToolSpec", arguments: Any) -> bool:
        from aquila.chat.tool_runner import permissions_text
        from aquila.chat.toolspec import compact_json

        if yes or not sys.stdin.isatty():
            return yes
        shown = visible(compact_json(dict(arguments)))[:2000]
        print(f"{tool.name} {shown}\nmay do: {permissions_text(tool.permissions)}", file=sys.stderr)
        print("run it? [y/N] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes", "是")

    return confirm


def visible(text: str) -> str:
    """The text without control characters: arguments come from a model and must not draw on the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def add_picture(store: Any, path: Path) -> "ToolImage":
    """A picture that the user names, for tools. `ConfigError` when it is none."""
    from aquila.chat.tool_result import ToolImage
    from aquila.errors import ConfigError

    try:
        data = path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return store.add(ToolImage(data, caption=path.name))


def save_pictures(result: "ToolResult", folder: Path | None) -> list[Path]:
    """Writes a result's pictures to files that did not exist; returns their paths."""
    import time

    from aquila.files import cache_dir

    if not result.images:
        return []
    folder = folder or cache_dir() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    paths: list[Path] = []
    number = 0
    for image in result.images:
        while True:
            number += 1
            path = folder / f"{stamp}-{number}.{image.mime.rpartition('/')[2]}"
            try:
                with open(path, "xb") as file:
                    file.write(image.data)
            except FileExistsError:
                continue
            break
        paths.append(path)
    return paths
