"""The openai package for Node."""

from client_parts import INSTALLED, MODEL, Server, program, run

CHAT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "x", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const ask = { model, messages: [{ role: "user", content: "Say hello." }], temperature: 0, max_tokens: 12 };
const whole = (await client.chat.completions.create(ask)).choices[0].message.content;
let text = "", usage;
const stream = await client.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) { text += chunk.choices[0]?.delta?.content ?? ""; usage = chunk.usage ?? usage; }
if (text !== whole || !usage.completion_tokens) throw new Error(JSON.stringify({ text, whole, usage }));
const done = await client.completions.create({ model, prompt: "1 2 3", max_tokens: 4, temperature: 0 });
if (!done.choices[0].text) throw new Error(JSON.stringify(done));
const answer = await client.responses.create({ model, input: "Hi", max_output_tokens: 8 });
if (!answer.output_text) throw new Error(JSON.stringify(answer));
console.log(model, text);
"""


def test_chat_completions_and_responses(server: Server, home):
    program("package.json", "node_modules/openai")
    script = home / "chat.mjs"
    script.write_text(CHAT, encoding="utf-8")
    (home / "node_modules").symlink_to(INSTALLED / "node_modules")
    assert run("node", script, server.v1, home=home).startswith(f"{MODEL} ")
