"""The Mistral SDK: chat, and its infilling route."""

from client_parts import MODEL, Server, python, run

CHAT = """
import sys
try:
    from mistralai import Mistral
except ImportError:
    from mistralai.client import Mistral
client = Mistral(server_url=sys.argv[1], api_key="x")
ask = dict(model=sys.argv[2], messages=[{"role": "user", "content": "Say hello."}], temperature=0, max_tokens=12)
whole = client.chat.complete(**ask).choices[0].message.content
text = "".join(event.data.choices[0].delta.content or "" for event in client.chat.stream(**ask) if event.data.choices)
assert text == whole, (text, whole)
try:
    client.fim.complete(model=sys.argv[2], prompt="def f(", suffix="return 1", max_tokens=4)
except Exception as error:
    print(getattr(error, "status_code", None), error)
print("answer:", text)
"""


def test_chat_and_refused_infill(server: Server, home):
    """smollm2 was not trained to infill, and that is what the SDK must be told."""
    said = run(python("mistralai"), "-c", CHAT, server.url, MODEL, home=home)
    refusal, _, answer = said.partition("answer: ")
    assert refusal.startswith("501 ")
    assert "fill" in refusal
    assert answer.strip()
