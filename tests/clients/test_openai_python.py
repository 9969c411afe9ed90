"""The openai package for Python."""

import pytest
from client_parts import MODEL, Server, python, run

CHAT = """
import sys
from openai import OpenAI
client = OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0)
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "Say hello."}], temperature=0, max_tokens=200)
whole = client.chat.completions.create(**ask)
text, usage = "", None
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    text += "".join(choice.delta.content or "" for choice in chunk.choices)
assert text == whole.choices[0].message.content, (text, whole)
assert usage.completion_tokens == whole.usage.completion_tokens, (usage, whole.usage)
with client.chat.completions.stream(**ask) as events:
    assert events.get_final_completion().choices[0].message.content == text
with client.chat.completions.create(**{**ask, "max_tokens": 4000}, stream=True) as left:
    next(iter(left))
print(model, text)
"""

COMPLETIONS = """
import sys
from openai import APIStatusError, OpenAI
client = OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0)
ask = dict(model=sys.argv[2], temperature=0)
two = client.completions.create(**ask, prompt=["1 2 3 4", "a b c d"], max_tokens=4, logprobs=2)
assert [choice.index for choice in two.choices] == [0, 1]
assert all(len(choice.logprobs.token_logprobs) == 4 for choice in two.choices), two
echoed = client.completions.create(**ask, prompt="1 2 3 4", echo=True, max_tokens=1, logprobs=1)
assert echoed.choices[0].text.startswith("1 2 3 4") and echoed.choices[0].logprobs.token_logprobs[0] is None
try:
    client.completions.create(model=sys.argv[2], prompt="def f(", suffix="return 1", max_tokens=4)
except APIStatusError as error:
    print(error.status_code, error.message)
try:
    client.chat.completions.create(model="another", messages=[{"role": "user", "content": "Hi"}])
except APIStatusError as error:
    print(error.status_code, error.message)
"""

FORCED = """
import json, sys
from openai import OpenAI
from pydantic import BaseModel
class City(BaseModel):
    name: str
    large: bool
client = OpenAI(base_url=sys.argv[1], api_key="x", max_retries=0)
ask = dict(model=sys.argv[2], messages=[{"role": "user", "content": "Paris"}], temperature=0, max_tokens=200)
city = client.chat.completions.parse(**ask, response_format=City).choices[0].message.parsed
tool = {"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"],
    "additionalProperties": False}}}
done = client.chat.completions.create(**ask, tools=[tool], tool_choice="required", parallel_tool_calls=False).choices[0]
call = done.message.tool_calls[0].function
assert done.finish_reason == "tool_calls" and call.name == "weather", done
assert json.loads(call.arguments)["unit"] in ("C", "F")
answer = client.responses.create(model=sys.argv[2], input="Say hello.", max_output_tokens=8, temperature=0)
assert answer.output_text
kinds = [e.type for e in client.responses.create(model=sys.argv[2], input="Hi", max_output_tokens=8, stream=True)]
assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete"), kinds
print(type(city).__name__, call.arguments)
"""


def test_chat_whole_streamed_and_left(server: Server, home):
    said = run(python("openai"), "-c", CHAT, server.v1, home=home)
    assert said.startswith(f"{MODEL} ")
    assert said.strip() != MODEL


def test_completions(server: Server, home):
    infill, unknown = run(python("openai"), "-c", COMPLETIONS, server.v1, MODEL, home=home).splitlines()
    assert infill.startswith("501 ")
    assert unknown.startswith("404 ")
    assert "another" in unknown


@pytest.mark.slow
def test_schema_tools_and_responses(server: Server, home):
    said = run(python("openai"), "-c", FORCED, server.v1, MODEL, home=home)
    assert said.startswith("City ")
