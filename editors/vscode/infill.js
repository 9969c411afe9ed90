// What goes to the server and what comes back: no `vscode` here, so that `node --test` can run all of it.

"use strict";

const MAX_CHARACTERS = 32000; // before and after the cursor; the server cuts to its context
const EXTRA_CHARACTERS = 4000; // of each other file

/** Address of a server, also when its OpenAI address was given. */
function serverRoot(baseUrl) {
  return baseUrl.trim().replace(/\/+$/, "").replace(/\/v1$/, "");
}

/** The body of /infill for a cursor at `offset` of `text`. `extra`: [{filename, text}], the most important last. */
function infillBody(text, offset, options = {}) {
  const lineStart = text.lastIndexOf("\n", offset - 1) + 1;
  const line = text.slice(lineStart, offset);
  const body = {
    input_prefix: cutStart(text.slice(0, lineStart), MAX_CHARACTERS),
    input_suffix: cutEnd(text.slice(offset), MAX_CHARACTERS),
    prompt: line,
    input_extra: (options.extra ?? []).map(({ filename, text: content }) => ({
      filename,
      text: cutEnd(content, EXTRA_CHARACTERS),
    })),
    n_predict: options.maxTokens ?? 96,
    n_indent: indentOf(line),
    temperature: 0,
    cache_prompt: true,
    stream: false,
    response_fields: ["content", "timings/prompt_n", "timings/predicted_n", "timings/predicted_per_second"],
  };
  if (options.model) body.model = options.model;
  return body;
}

/** The beginning of a long text, never half of a character of two units: no server takes that. */
function cutEnd(text, limit) {
  return text.slice(0, limit).toWellFormed();
}

/** The end of a long text; it begins with a whole line, so that the beginning stays the same while a line is typed. */
function cutStart(text, limit) {
  if (text.length <= limit) return text;
  const newline = text.indexOf("\n", text.length - limit);
  return newline < 0 ? text.slice(-limit).toWellFormed() : text.slice(newline + 1);
}

/** Indentation that the lines of a completion must keep: that of the cursor's line. */
function indentOf(line) {
  return line.length - line.trimStart().length;
}

/** Whether it is any use to ask here: not within a word. */
function worthAsking(text, offset) {
  return !/[\p{L}\p{N}_]/u.test(text.slice(offset, offset + 2)) || offset >= text.length;
}

/** A completion as VS Code takes it: text, and how many characters behind the cursor it replaces. */
function insertion(content, text, offset) {
  if (!content.trim()) return null;
  const lineEnd = text.indexOf("\n", offset);
  const rest = text.slice(offset, lineEnd < 0 ? text.length : lineEnd);
  const first = content.split("\n", 1)[0];
  // A completion that says the closing brackets behind the cursor again replaces them: VS Code would show them twice.
  const closes = rest.trim() !== "" && /^[)\]}'"`;:,\s]*$/.test(rest) && first.endsWith(rest.trimEnd());
  return { text: content, replace: closes ? rest.trimEnd().length : 0 };
}

/** The last answers, by all that they depend on; also answers what is typed into one of them. */
class Cache {
  constructor(size = 64) {
    this.size = size;
    this.entries = new Map(); // key -> content
  }

  static key(body) {
    return JSON.stringify([body.input_prefix, body.prompt, body.input_suffix, body.model ?? ""]);
  }

  set(body, content) {
    const key = Cache.key(body);
    this.entries.delete(key);
    this.entries.set(key, content);
    if (this.entries.size > this.size) this.entries.delete(this.entries.keys().next().value);
  }

  /** The content for this body, or the rest of one whose beginning was typed meanwhile; undefined: ask. */
  get(body) {
    for (let typed = 0; typed <= Math.min(body.prompt.length, 64); typed++) {
      const line = body.prompt.slice(0, body.prompt.length - typed);
      const content = this.entries.get(Cache.key({ ...body, prompt: line }));
      const since = body.prompt.slice(line.length);
      if (content !== undefined && content.startsWith(since)) {
        if (typed === 0 || content.length > since.length) return content.slice(since.length);
      }
    }
    return undefined;
  }
}

/** Waits; rejects with an AbortError when the signal says so. */
function delay(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(new DOMException("aborted", "AbortError"));
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Asks the server; the text of the completion. Aborting the signal closes the connection, which stops the model. */
async function askServer(body, { baseUrl, apiKey, timeoutMs = 10000, signal }) {
  const headers = { "content-type": "application/json" };
  if (apiKey) headers.authorization = `Bearer ${apiKey}`;
  const limit = AbortSignal.timeout(timeoutMs);
  const response = await fetch(`${serverRoot(baseUrl)}/infill`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    signal: signal ? AbortSignal.any([signal, limit]) : limit,
    redirect: "error", // text of a file goes to the address that was set, and to no other
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ServerError(response.status, answer?.error?.message ?? `the server said ${response.status}`);
  if (typeof answer.content !== "string") throw new ServerError(response.status, "the answer has no content: is this a server with /infill?");
  return answer.content;
}

/**
 * Completes at cursors: waits for a pause in the typing, asks once, remembers answers. A new request ends the one before.
 */
class Completer {
  constructor(cache = new Cache()) {
    this.cache = cache;
    this.running = null;
  }

  /** The content, or null when it was overtaken or aborted. */
  async complete(body, { debounceMs = 120, signal, ...server }) {
    this.running?.abort();
    const known = this.cache.get(body);
    if (known !== undefined) return known;
    const own = new AbortController();
    this.running = own;
    const both = signal ? AbortSignal.any([own.signal, signal]) : own.signal;
    try {
      await delay(debounceMs, both);
      const content = await askServer(body, { ...server, signal: both });
      this.cache.set(body, content);
      return content;
    } catch (error) {
      if (both.aborted) return null;
      throw error;
    } finally {
      if (this.running === own) this.running = null;
    }
  }
}

module.exports = { Cache, Completer, ServerError, askServer, delay, infillBody, insertion, serverRoot, worthAsking };
