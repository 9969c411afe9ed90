"""aider, asked to change a file."""

import re

import pytest
from client_parts import MODEL, Server, program, run


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_message(server: Server, home):
    aider = program("aider", "venv-aider/bin")
    work = home / "work"
    work.mkdir()
    (work / "a.py").write_text("x = 1\n", encoding="utf-8")
    (work / "settings.yml").write_text(
        f"- name: openai/{MODEL}\n  extra_params: {{max_tokens: 64, temperature: 0}}\n", encoding="utf-8"
    )
    # `ask` wants an answer and no edit, which a model this small cannot give in aider's form
    options = "--yes-always --no-check-update --analytics-disable --no-show-model-warnings --no-git --no-pretty"
    said = run(
        aider, "--model", f"openai/{MODEL}", "--openai-api-base", server.v1, "--openai-api-key", "x",
        *options.split(), "--edit-format", "ask", "--map-tokens", "0", "--model-settings-file", work / "settings.yml",
        "--message", "What does a.py do?", "a.py", home=home, cwd=work, LITELLM_LOCAL_MODEL_COST_MAP="True",
    )  # fmt: skip
    assert re.search(r"Tokens: \d+ sent, [1-9]\d* received", said), said
