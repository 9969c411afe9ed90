"""Tools that the web page may run on this machine: those that `--tools` names, and nothing else.

`/v1` never runs a tool. A server that other machines can reach runs tools only with a key: otherwise anybody in the
network could.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aquila.chat.tool_result import ToolResult
from aquila.chat.tool_runner import ToolRunner, image_parameters, permissions_text
from aquila.chat.tools.registry import ToolBox, ToolSettings
from aquila.errors import ConfigError
from aquila.serve.settings import Settings

MAX_RUNNING = 4
MAX_IMAGES = 4


class ToolService:
    """The tools of a server.

    Args:
        settings: names the tools.
        tool_settings: what they need to know of the machine.

    Raises:
        ConfigError: no such tool, or a server that others can reach has no key.
    """

    def __init__(self, settings: Settings, tool_settings: ToolSettings | None = None):
        if settings.tools and not settings.loopback and not settings.api_keys:
            raise ConfigError(
                f"--tools: others can reach {settings.host}, and would run tools here; give the server a key with "
                "--api-key-file, or leave out --host"
            )
        self._box = ToolBox(settings.tools, tool_settings)
        self._runner = ToolRunner(self._box.tools)
        self._running = asyncio.Semaphore(MAX_RUNNING)

    def close(self) -> None:
        """Ends the MCP servers."""
        self._box.close()

    def cards(self) -> list[dict[str, Any]]:
        """A card of each tool."""
        return [
            {
                "name": tool.name,
                "description": {language: tool.describe(language) for language in ("en", "zh")},
                "parameters": dict(tool.parameters),
                "permissions": sorted(tool.permissions),
                "body": tool.form,
                "argument": tool.argument,
                "available": True,
                "origin": tool.origin,
            }
            for tool in self._box.tools
        ]

    async def run(
        self, name: str, arguments: Mapping[str, Any], *, confirmed: bool, images: Sequence[str]
    ) -> dict[str, Any]:
        """Runs a tool for the page.

        Args:
            name: of the tool.
            arguments: as the model gave them.
            confirmed: the user has allowed what the tool may do.
            images: `data:` URIs or ids, for parameters that are pictures and were not given.
        """
        tool = self._runner.tools.get(name)
        if tool is not None and tool.permissions and not confirmed:
            message = f"{name} needs your permission: {permissions_text(tool.permissions)}"
            return {"ok": False, "error": {"message": message, "hint": ""}, "confirm": sorted(tool.permissions)}
        if len(images) > MAX_IMAGES:
            raise ConfigError(f"images: {len(images)} are too many; send {MAX_IMAGES} at most")
        missing = [each for each in image_parameters(tool) if each not in arguments] if tool else []
        arguments = {**arguments, **dict(zip(missing, images, strict=False))}
        async with self._running:
            result = await asyncio.to_thread(self._runner.run, name, arguments, confirm=lambda *_: confirmed)
        return _answer(result)


def _answer(result: ToolResult) -> dict[str, Any]:
    if result.error:
        return {"ok": False, "error": {"message": result.text, "hint": ""}, "content": result.for_model()}
    images = [
        {"id": each["id"], "src": f"data:{each['mime']};base64,{each['data']}", "caption": each["caption"]}
        for each in result.to_json()["images"]
    ]
    return {"ok": True, "content": result.for_model(), "images": images}
