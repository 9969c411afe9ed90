// Run by `node --test` in this folder: the pure part, a real HTTP server on loopback, and the provider over a small vscode.

"use strict";

const assert = require("node:assert/strict");
const http = require("node:http");
const Module = require("node:module");
const test = require("node:test");
const { Cache, Completer, ServerError, askServer, infillBody, insertion, serverRoot, worthAsking } = require("./infill.js");

const TEXT = "def f(x):\n    a = '😀'\n    return \n\nprint(f(1))\n";
const CURSOR = TEXT.indexOf("return ") + "return ".length;

/** A server that answers with `reply(body)`, and keeps what it was asked. */
async function serving(reply, work) {
  const asked = [];
  const closed = [];
  const server = http.createServer((request, response) => {
    let data = "";
    request.on("data", (part) => (data += part));
    request.on("end", () => {
      const body = data ? JSON.parse(data) : {};
      asked.push({ url: request.url, headers: request.headers, body });
      response.on("close", () => closed.push(!response.writableEnded));
      reply(body, response);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    await work(`http://127.0.0.1:${server.address().port}`, asked, closed);
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

function answer(response, value, status = 200) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

test("a body has the cursor's line apart, and nothing lost", () => {
  const body = infillBody(TEXT, CURSOR, { maxTokens: 7, extra: [{ filename: "b.py", text: "b" }], model: "m" });
  assert.equal(body.input_prefix + body.prompt + body.input_suffix, TEXT);
  assert.equal(body.prompt, "    return ");
  assert.equal(body.n_indent, 4);
  assert.equal(body.n_predict, 7);
  assert.deepEqual(body.input_extra, [{ filename: "b.py", text: "b" }]);
  assert.equal(body.model, "m");
  assert.ok(!("model" in infillBody(TEXT, CURSOR)));
});

test("a long text is cut where a line begins", () => {
  const long = "x = 1\n".repeat(20000);
  const body = infillBody(long, long.length);
  assert.ok(body.input_prefix.length <= 32000);
  assert.ok(body.input_prefix.startsWith("x = 1\n"));
});

test("no half of a character is sent", () => {
  const body = infillBody("a" + "😀".repeat(40000), 1, { extra: [{ filename: "b", text: "b" + "😀".repeat(3000) }] });
  for (const text of [body.input_suffix, body.input_extra[0].text]) assert.ok(text.isWellFormed());
});

test("an OpenAI address is as good as the server's", () => {
  assert.equal(serverRoot(" http://a:1/v1/ "), "http://a:1");
  assert.equal(serverRoot("http://a:1"), "http://a:1");
});

test("within a word nothing is asked", () => {
  assert.equal(worthAsking("ab cd", 1), false);
  assert.equal(worthAsking("ab cd", 5), true);
  assert.equal(worthAsking("f(", 2), true);
  assert.equal(worthAsking("f()", 2), true);
  assert.equal(worthAsking("变量", 1), false);
});

test("brackets behind the cursor are not shown twice", () => {
  assert.deepEqual(insertion("a, b)", "f()\n", 2), { text: "a, b)", replace: 1 });
  assert.deepEqual(insertion("a, b", "f()\n", 2), { text: "a, b", replace: 0 });
  assert.deepEqual(insertion("x + y", "return \n", 7), { text: "x + y", replace: 0 });
  assert.equal(insertion("  \n", "a", 1), null);
});

test("what is typed into an answer needs no new one", () => {
  const cache = new Cache(2);
  const body = infillBody(TEXT, CURSOR);
  cache.set(body, "a + x");
  const typed = (text) => infillBody(TEXT.slice(0, CURSOR) + text + TEXT.slice(CURSOR), CURSOR + text.length);
  assert.equal(cache.get(body), "a + x");
  assert.equal(cache.get(typed("a +")), " x");
  assert.equal(cache.get(typed("b")), undefined);
  assert.equal(cache.get(typed("a + x")), undefined, "it is used up: what follows is not known");
  cache.set(infillBody("1", 1), "");
  cache.set(infillBody("2", 1), "");
  assert.equal(cache.get(body), undefined, "the oldest is forgotten");
});

test("the server gets the key, and its answer comes back", () =>
  serving((_, response) => answer(response, { content: "a" }), async (url, asked) => {
    assert.equal(await askServer(infillBody(TEXT, CURSOR), { baseUrl: `${url}/v1`, apiKey: "k" }), "a");
    assert.equal(asked[0].url, "/infill");
    assert.equal(asked[0].headers.authorization, "Bearer k");
    assert.equal(asked[0].headers["content-type"], "application/json");
  }));

test("what a server says against a request is what the user reads", () =>
  serving((_, response) => answer(response, { error: { message: "tiny cannot fill in the middle" } }, 501), async (url) => {
    await assert.rejects(askServer({}, { baseUrl: url }), (error) => {
      assert.ok(error instanceof ServerError);
      assert.equal(error.status, 501);
      assert.equal(error.message, "tiny cannot fill in the middle");
      return true;
    });
  }));

test("a redirect is refused: text goes to the address that was set", () =>
  serving((_, response) => {
    response.writeHead(307, { location: "http://127.0.0.1:9/infill" });
    response.end();
  }, async (url) => {
    await assert.rejects(askServer({}, { baseUrl: url }), { name: "TypeError" });
  }));

test("keys in a burst make one request, and the ones before it come to nothing", () =>
  serving((body, response) => answer(response, { content: body.prompt }), async (url, asked) => {
    const completer = new Completer();
    const typed = ["a", "ab", "abc"].map((text) => completer.complete(infillBody(text, text.length), { baseUrl: url, debounceMs: 20 }));
    assert.deepEqual(await Promise.all(typed), [null, null, "abc"]);
    assert.equal(asked.length, 1);
    assert.equal(await completer.complete(infillBody("abc", 3), { baseUrl: url }), "abc");
    assert.equal(asked.length, 1, "the second time from the cache");
  }));

test("cancelling closes the connection, so that the server stops", () =>
  serving(() => {}, async (url, asked, closed) => {
    const abort = new AbortController();
    const pending = new Completer().complete(infillBody("a", 1), { baseUrl: url, debounceMs: 0, signal: abort.signal });
    while (!asked.length) await new Promise((resolve) => setImmediate(resolve));
    abort.abort();
    assert.equal(await pending, null);
    while (!closed.length) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(closed, [true]);
  }));

const REAL = process.env.AQUILA_TEST_URL;

test("a real server fills in what it fills in for anybody", { skip: REAL === undefined && "AQUILA_TEST_URL is not set" }, async () => {
  const { text, offset, content } = JSON.parse(process.env.AQUILA_TEST_CURSOR);
  const body = infillBody(text, offset, { maxTokens: 12 });
  assert.equal(await askServer(body, { baseUrl: REAL, timeoutMs: 60000 }), content);
});

/** As much of `vscode` as the provider touches. */
function smallVscode(values) {
  const item = { show() {} };
  return {
    item,
    StatusBarAlignment: { Right: 2 },
    InlineCompletionTriggerKind: { Invoke: 0, Automatic: 1 },
    ThemeColor: class {},
    Range: class {
      constructor(start, end) {
        Object.assign(this, { start, end });
      }
    },
    InlineCompletionItem: class {
      constructor(insertText, range) {
        Object.assign(this, { insertText, range });
      }
    },
    window: { createStatusBarItem: () => item },
    workspace: {
      textDocuments: [],
      getConfiguration: () => ({ get: (name) => values[name] }),
      onDidChangeConfiguration: () => ({}),
      asRelativePath: (uri) => uri.path,
    },
    languages: { registerInlineCompletionItemProvider: (_, provider) => (item.provider = provider) },
    commands: { registerCommand: () => ({}) },
  };
}

test("the provider completes in a document with Windows line ends, and says in the status bar what failed", () =>
  serving((body, response) => (body.prompt.includes("bad") ? answer(response, {}, 500) : answer(response, { content: "x" })), async (url, asked) => {
    const values = { enabled: true, baseUrl: url, apiKey: "", model: "", debounceMs: 0, timeoutMs: 5000, maxTokens: 9, extraFiles: 2, disabledLanguages: ["markdown"] };
    const vscode = smallVscode(values);
    const load = Module._load;
    Module._load = (name, ...rest) => (name === "vscode" ? vscode : load(name, ...rest));
    try {
      require("./extension.js").activate({ subscriptions: [] });
    } finally {
      Module._load = load;
    }
    const place = (offset) => ({ offset, translate: (_, characters) => place(offset + characters) });
    const provide = (text, languageId = "python", selectedCompletionInfo = undefined) => {
      const document = { languageId, getText: () => text, offsetAt: (position) => position.offset };
      vscode.workspace.textDocuments = [document, { uri: { scheme: "file", path: "b.py" }, getText: () => "b = 1" }];
      const context = { triggerKind: 1, selectedCompletionInfo };
      return vscode.item.provider.provideInlineCompletionItems(document, place(text.length), context, { onCancellationRequested: () => ({ dispose() {} }) });
    };
    const [found] = await provide("a = 1\r\nb = ");
    assert.equal(found.insertText, "x");
    assert.equal(asked[0].body.input_prefix, "a = 1\n");
    assert.deepEqual(asked[0].body.input_extra, [{ filename: "b.py", text: "b = 1" }]);
    assert.deepEqual(await provide("# text ", "markdown"), []);
    assert.deepEqual(await provide("bad "), []);
    assert.match(vscode.item.text, /warning/);
    assert.equal(vscode.item.tooltip, "the server said 500");
    const [chosen] = await provide("c = wi", "python", { text: "width", range: { start: place(4), end: place(6) } });
    assert.equal(asked[2].body.prompt, "c = width", "what the list of words has chosen counts as typed");
    assert.equal(chosen.insertText, "widthx");
    assert.deepEqual([chosen.range.start.offset, chosen.range.end.offset], [4, 6]);
    values.enabled = false;
    assert.deepEqual(await provide("a"), []);
    assert.equal(asked.length, 3);
  }));
