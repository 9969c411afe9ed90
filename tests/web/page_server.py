"""A server process for the tests of the page: `python page_server.py PORT FOLDER [--key KEY] [--no-tools] [--infill]`.

The model is scripted; everything else is what `aquila serve` runs, with tools that are real: a calculator, an MCP
server, InstructPix2Pix with tiny random weights, and text2image without a model.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from page_script import script

from aquila.chat.tools.registry import ToolSettings
from aquila.serve.run import Service, listen
from aquila.serve.server import Server
from aquila.serve.settings import Settings
from aquila.serve.tool_service import ToolService
from scripted_runner import scripted_model

TOOLS = ("calculator", "text2image", "InstructFace", "test")


def edit_model(folder: Path) -> Path:
    """The folder of the tiny editing model, written once."""
    path = folder / "pix2pix"
    if not path.exists():
        from diffusion_parts import instruct_pix2pix_folder

        instruct_pix2pix_folder(path)
    return path


def mcp_config(folder: Path) -> Path:
    path = folder / "mcp.json"
    server = {"command": sys.executable, "args": [str(Path(__file__).parents[1] / "mcp_server.py"), "stateless"]}
    path.write_text(json.dumps({"mcpServers": {"test": server}}), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key")
    parser.add_argument("--no-tools", action="store_true")
    parser.add_argument("--infill", action="store_true")
    options = parser.parse_args()
    tools = () if options.no_tools else TOOLS
    settings = Settings(port=options.port, api_keys=(options.key,) if options.key else (), tools=tools)
    server = Server(settings)
    if tools:
        folder = options.folder
        server.tools = ToolService(settings, ToolSettings(edit_model=edit_model(folder), mcp_config=mcp_config(folder)))
    sock = listen("127.0.0.1", options.port)
    Service(server, sock, lambda: scripted_model(script, infill=options.infill)).run_until_stopped()


if __name__ == "__main__":
    main()
