"""The `llm` command."""

import json

from client_parts import MODEL, Server, program, python, run


def test_prompt_schema_and_completion(server: Server, home):
    python("llm")
    llm = program("llm")
    common = {"api_base": server.v1, "model_name": MODEL}
    entries = [
        {"model_id": "chat", **common, "supports_tools": True, "supports_schema": True},
        {"model_id": "text", **common, "completion": True},
    ]
    folder = home / "llm"
    folder.mkdir()
    # YAML reads JSON, and no YAML library is needed to write it
    (folder / "extra-openai-models.yaml").write_text(json.dumps(entries), encoding="utf-8")
    variables = {"LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "x"}
    limits = ("-o", "max_tokens", "60", "-o", "temperature", "0")
    streamed = run(llm, "-m", "chat", *limits, "Say hello.", home=home, **variables)
    assert streamed.strip()
    assert run(llm, "-m", "chat", "--no-stream", *limits, "Say hello.", home=home, **variables) == streamed
    schema = {"type": "object", "properties": {"large": {"type": "boolean"}}, "required": ["large"]}
    schema["additionalProperties"] = False
    forced = run(llm, "-m", "chat", *limits, "--schema", json.dumps(schema), "Is Paris large?", home=home, **variables)
    assert isinstance(json.loads(forced)["large"], bool)
    assert run(llm, "-m", "text", *limits, "1 2 3 4", home=home, **variables).strip()
