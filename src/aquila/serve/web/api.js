// The server: requests, streams, the key, and whether it can be reached.

import { EventParser } from "./sse.js";

export class ApiError extends Error {
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class OfflineError extends Error {}

const KEY = "aquila.key";
let keyAsker = async () => null;
let keyAsked = null; // one dialog for all requests that wait for the key

export function onKeyNeeded(asker) {
  keyAsker = asker;
}

function key() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function headers(body) {
  return { ...(body === undefined ? {} : { "content-type": "application/json" }), ...(key() ? { authorization: `Bearer ${key()}` } : {}) };
}

async function send(path, { body, signal } = {}) {
  for (;;) {
    const used = key();
    let response;
    try {
      response = await fetch(path, {
        method: body === undefined ? "GET" : "POST", headers: headers(body), signal, cache: "no-store",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new OfflineError(error.message);
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    if (key() === used && !(await askForKey(Boolean(used)))) throw error;
  }
}

async function askForKey(wrong) {
  keyAsked ??= keyAsker(wrong).finally(() => { keyAsked = null; });
  const given = await keyAsked;
  if (given) sessionStorage.setItem(KEY, given.trim());
  return Boolean(given);
}

async function errorOf(response) {
  try {
    const { error } = await response.json();
    return new ApiError(response.status, error.message, error.code);
  } catch {
    return new ApiError(response.status, `${response.status} ${response.statusText}`);
  }
}

export async function ask(path, body, signal) {
  const response = await send(path, { body, signal });
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new OfflineError(error.message);
  }
}

// Calls `onChunk` with each JSON document of an event stream.
export async function stream(path, body, signal, onChunk) {
  const response = await send(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  const reader = response.body.getReader();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await read(reader);
    for (const data of done ? parser.end() : parser.feed(value)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.message, chunk.error.code);
      onChunk(chunk);
    }
    if (done) throw new OfflineError("the answer broke off");
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new OfflineError(error.message);
  }
}
