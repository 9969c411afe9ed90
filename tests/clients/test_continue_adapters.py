"""Continue's library of providers: what its extensions for VS Code and JetBrains ask for a completion at the cursor."""

import json
from pathlib import Path

import httpx
import pytest
from client_parts import INSTALLED, Server, program, run

FILL = """
import { constructLlmApi } from "@continuedev/openai-adapters";
const [provider, apiBase, prompt, suffix] = process.argv.slice(2);
const api = constructLlmApi({ provider, apiBase, apiKey: "none" });
const body = { model: "tiny", prompt, suffix, max_tokens: 12, temperature: 0, stream: true };
const stream = api.fimStream(body, new AbortController().signal);
let text = "";
for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
console.log(JSON.stringify(text));
"""
PROMPT, SUFFIX = "def f(x):\n    re", "\n    return 1\n"


@pytest.mark.parametrize(("provider", "base"), [("mistral", "/v1/"), ("deepseek", "/")])
def test_the_middle_is_the_servers(provider: str, base: str, fim_server: Server, home: Path) -> None:
    program("package.json", "node_modules/@continuedev/openai-adapters")
    body = {"prompt": PROMPT, "suffix": SUFFIX, "max_tokens": 12, "temperature": 0}
    filled = httpx.post(f"{fim_server.v1}/completions", json=body, timeout=60).json()["choices"][0]["text"]
    assert filled.strip()
    script = home / "fill.mjs"
    script.write_text(FILL, encoding="utf-8")
    (home / "node_modules").symlink_to(INSTALLED / "node_modules")
    assert json.loads(run("node", script, provider, fim_server.url + base, PROMPT, SUFFIX, home=home)) == filled
