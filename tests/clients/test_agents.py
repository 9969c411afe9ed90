"""Agents for the terminal, asked one question. Their prompts are cut down to fit 8192 positions."""

import json

import pytest
from client_parts import MODEL, Server, program, run

BIN = "node_modules/.bin"
CODEX = """\
model = "{model}"
model_provider = "local"
model_context_window = 8192
model_instructions_file = "{home}/instructions.md"
web_search = "disabled"
include_permissions_instructions = false
include_environment_context = false
include_apps_instructions = false
include_collaboration_mode_instructions = false

[model_providers.local]
name = "local"
base_url = "{url}"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[features]
shell_tool = false
unified_exec = false
multi_agent = false
goals = false
apps = false
image_generation = false

[skills]
include_instructions = false

[skills.bundled]
enabled = false
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_codex(server: Server, home):
    """Over /v1/responses."""
    (home / "instructions.md").write_text("Answer briefly.", encoding="utf-8")
    (home / "config.toml").write_text(CODEX.format(model=MODEL, home=home, url=server.v1), encoding="utf-8")
    options = ("--skip-git-repo-check", "--sandbox", "read-only", "--output-last-message", home / "answer")
    run(program("codex", BIN), "exec", *options, "Say hello.", home=home, CODEX_HOME=str(home))
    assert (home / "answer").read_text(encoding="utf-8").strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_claude(server: Server, home):
    """Over /v1/messages."""
    variables = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": "x",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # it asks for temperature 1 and 32,000 tokens, which a model this small may well fill with noise
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1000",
        "CLAUDE_CODE_EXTRA_BODY": json.dumps({"temperature": 0, "stop_sequences": ["."]}),
    }
    options = ("--bare", "--system-prompt", "Answer briefly.", "--tools", "", "--output-format", "json")
    said = json.loads(run(program("claude", BIN), "-p", "Say hello.", *options, home=home, **variables))
    assert not said["is_error"], said
    assert said["result"].strip()
    assert said["usage"]["output_tokens"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cn(server: Server, home):
    """Continue's terminal agent, over /v1/chat/completions."""
    model = {
        "name": "local",
        "provider": "openai",
        "model": MODEL,
        "apiBase": server.v1,
        "apiKey": "x",
        "roles": ["chat"],
        "defaultCompletionOptions": {"contextLength": 8192, "maxTokens": 32, "temperature": 0},
    }
    config = home / "config.yaml"  # YAML reads JSON
    config.write_text(
        json.dumps({"name": "local", "version": "1.0.0", "schema": "v1", "models": [model]}), encoding="utf-8"
    )
    options = ("--config", config, "--exclude", "*")
    said = run(program("cn", BIN), "-p", "Say hello.", *options, home=home, CONTINUE_TELEMETRY_ENABLED="0")
    assert said.strip()
