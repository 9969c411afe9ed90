"""langchain-openai's chat model."""

from client_parts import MODEL, Server, python, run

CHAT = """
import sys
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
model = ChatOpenAI(base_url=sys.argv[1], api_key="x", model=sys.argv[2], temperature=0, max_tokens=100, max_retries=0)
whole = model.invoke("Say hello.")
text = "".join(chunk.content for chunk in model.stream("Say hello."))
assert text == whole.content and whole.usage_metadata["output_tokens"], (text, whole)
@tool
def light(on: bool) -> str:
    "Switches the light."
    return "done"
calls = model.bind_tools([light], tool_choice="light").invoke("Switch it on.").tool_calls
assert calls[0]["name"] == "light" and isinstance(calls[0]["args"]["on"], bool), calls
print("answer:", text)
"""


def test_invoke_stream_and_tools(server: Server, home):
    said = run(python("langchain_openai"), "-c", CHAT, server.v1, MODEL, home=home)
    assert said.partition("answer: ")[2].strip()
