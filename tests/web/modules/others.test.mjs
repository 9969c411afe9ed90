import assert from "node:assert/strict";
import test from "node:test";
import { addChunk, statsOf, titleOf, toMessages } from "../web/conversation.js";
import { highlight, languageOf } from "../web/highlight.js";
import { EventParser } from "../web/sse.js";
import { problems, Tree } from "../web/tree.js";

// ---- events

const STREAM = ': ping\n\ndata: {"a":"中文🦅"}\n\nevent: x\ndata:one\ndata: two\r\n\r\ndata: [DONE]\n\n';

test("events come out whole for every way of cutting their bytes", () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let size = 1; size <= bytes.length; size += 1) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < bytes.length; at += size) events.push(...parser.feed(bytes.slice(at, at + size)));
    events.push(...parser.end());
    assert.deepEqual(events, ['{"a":"中文🦅"}', "one\ntwo", "[DONE]"], `size ${size}`);
  }
});

test("an event that was cut off is no event", () => {
  const parser = new EventParser();
  assert.deepEqual(parser.feed(new TextEncoder().encode("data: x\n")), []);
  assert.deepEqual(parser.end(), []);
});

// ---- branches

const grown = () => {
  const tree = new Tree();
  tree.add({ id: "q1", parent: null, role: "user", content: "q1" });
  tree.add({ id: "a1", parent: "q1", role: "assistant", content: "a1" });
  tree.add({ id: "q2", parent: "a1", role: "user", content: "q2" });
  return tree;
};
const ids = (nodes) => nodes.map((node) => node.id);

test("a sibling hides what was below the other one, and brings it back", () => {
  const tree = grown();
  tree.add({ id: "a2", parent: "q1", role: "assistant", content: "a2" });
  assert.deepEqual(ids(tree.path()), ["q1", "a2"]);
  assert.equal(tree.turn("a2", -1), "a1");
  assert.deepEqual(ids(tree.path()), ["q1", "a1", "q2"]);
  assert.equal(tree.turn("a1", -1), null);
  assert.deepEqual(tree.siblings("a1"), ["a1", "a2"]);
  assert.deepEqual(ids(tree.pathTo("q2")), ["q1", "a1", "q2"]);
});

test("the tree comes back from its nodes and choices", () => {
  const tree = grown();
  tree.add({ id: "p1", parent: null, role: "user", content: "edited" });
  tree.turn("p1", -1);
  const again = new Tree([...tree.nodes.values()], tree.chosen);
  assert.deepEqual(again.path(), tree.path());
  assert.deepEqual(ids(new Tree([...tree.nodes.values()]).path()), ["p1"]);
});

test("removing a node removes what is below it", () => {
  const tree = grown();
  assert.deepEqual(tree.remove("a1").sort(), ["a1", "q2"]);
  assert.deepEqual(ids(tree.path()), ["q1"]);
});

test("nodes that make no tree are refused, with the place", () => {
  const good = { id: "a", parent: null, role: "user", content: "" };
  assert.deepEqual(problems([good, { ...good, id: "b", parent: "a" }]), []);
  assert.deepEqual(problems([good, good, { ...good, id: "c", parent: "z" }, { id: 1, parent: null, role: "x", content: 3 }]), [
    "messages[1].id: a occurs twice",
    "messages[2].parent: must come before it, or be null",
    "messages[3].id: must be a text",
    "messages[3].role: must be user, assistant or tool",
    "messages[3].content: must be a text",
  ]);
});

// ---- the wire

test("tool calls grow from their deltas, and results follow them on the wire", () => {
  const node = { role: "assistant", content: "" };
  const call = (part) => ({ choices: [{ delta: { tool_calls: [part] } }] });
  addChunk(node, { choices: [{ delta: { role: "assistant", content: "好。" } }] });
  addChunk(node, call({ index: 0, id: "c1", type: "function", function: { name: "calculator", arguments: "" } }));
  addChunk(node, call({ index: 0, function: { arguments: '{"expression":' } }));
  addChunk(node, call({ index: 0, function: { arguments: '"1+1"}' } }));
  addChunk(node, { choices: [{ delta: {}, finish_reason: "tool_calls" }] });
  addChunk(node, { choices: [], usage: { completion_tokens: 3 } });
  assert.equal(node.finish, "tool_calls");
  node.calls[0].state = "done";
  node.calls[0].result = { content: "2" };
  assert.deepEqual(toMessages([{ role: "user", content: "?" }, node], " be brief "), [
    { role: "system", content: "be brief" },
    { role: "user", content: "?" },
    { role: "assistant", content: "好。", tool_calls: [{ id: "c1", type: "function", function: { name: "calculator", arguments: '{"expression":"1+1"}' } }] },
    { role: "tool", tool_call_id: "c1", content: "2" },
  ]);
});

test("a file goes in a fence that it cannot close", () => {
  const [message] = toMessages([{ role: "user", content: "read", files: [{ name: "a.md", text: "````\nx" }] }], "");
  assert.equal(message.content, "a.md\n`````md\n````\nx\n`````\n\nread");
});

test("speed counts from the first token on", () => {
  const stats = statsOf({ completion_tokens: 11, prompt_tokens: 5, total_tokens: 16 }, { asked: 0, first: 500, end: 1500 });
  assert.equal(stats.perSecond, 10);
  assert.equal(stats.firstMs, 500);
  assert.equal(statsOf(undefined, { asked: 0, first: null, end: 9 }).perSecond, null);
});

test("titles are a line, and never half a character", () => {
  assert.equal(titleOf("\n# 你好\nx"), "你好");
  assert.equal([...titleOf("🦅".repeat(60))].length, 48);
});

// ---- colours

const CODE = {
  python: '@cache\ndef f(x: int) -> str:\n    """doc\n"""\n    return f"{x}" + \'\' # 注释\n',
  ts: "const a: number = 1_000; // c\n/* open",
  java: 'class A { String s = """\n x"""; char c = \'\\\'\'; }',
  cpp: '#include <vector>\nauto s = R"x(")x"; int n = 1\'000;',
  go: "func main() { s := `raw\n` }",
  rust: "fn f<'a>(x: &'a str) -> char { 'x' } #[derive(Debug)]",
  bash: 'for f in *; do echo "$f" $HOME ${x#y}; done # c',
  json: '{"a": [1.5e3, true, "x"]}',
  sql: "SELECT * FROM t WHERE a = 'it''s' -- c",
};

test("colouring loses nothing, in every language and for every beginning of the code", () => {
  for (const [name, code] of Object.entries(CODE)) {
    assert.ok(languageOf(name), name);
    for (let end = 0; end <= code.length; end += 1) {
      const part = code.slice(0, end);
      assert.equal(highlight(name, part).map(([, text]) => text).join(""), part, name);
    }
  }
});

test("pieces have their kinds", () => {
  const kinds = (name, code) => highlight(name, code).filter(([kind]) => kind).map((piece) => piece.join(":"));
  assert.deepEqual(kinds("python", "def f(n): return n % 2 # x"), ["keyword:def", "function:f", "keyword:return", "number:2", "comment:# x"]);
  assert.deepEqual(kinds("json", '{"a": "b"}'), ['property:"a"', 'string:"b"']);
  assert.deepEqual(kinds("sql", "select 1"), ["keyword:select", "number:1"]);
  assert.deepEqual(kinds("rust", "println!('a')"), ["function:println", "string:'a'"]);
  assert.deepEqual(kinds("c", "#include <a>"), ["meta:#include <a>"]);
});

test("languages it does not know stay plain, whatever they are called", () => {
  for (const name of ["brainfuck", "constructor", "__proto__", ""]) {
    assert.deepEqual(highlight(name, "if"), [["", "if"]], name);
  }
});
