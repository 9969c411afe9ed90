"""LiteLLM, chat and text completion."""

from client_parts import MODEL, Server, python, run

BOTH = """
import sys
import litellm
where = dict(api_base=sys.argv[1], api_key="x", temperature=0, max_tokens=12, num_retries=0)
ask = dict(model="openai/" + sys.argv[2], messages=[{"role": "user", "content": "Say hello."}], **where)
whole = litellm.completion(**ask).choices[0].message.content
text = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True))
assert text == whole, (text, whole)
done = litellm.text_completion(model="text-completion-openai/" + sys.argv[2], prompt="1 2 3 4", **where)
assert done.choices[0].text, done
print("answer:", text)
"""


def test_chat_and_text(server: Server, home):
    said = run(python("litellm"), "-c", BOTH, server.v1, MODEL, home=home, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert said.partition("answer: ")[2].strip()
