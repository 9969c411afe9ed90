// What a conversation becomes on the wire, and what the wire adds to it. No page, no network.

// The messages of a chat request for what was said up to now.
export function toMessages(nodes, system) {
  const messages = system?.trim() ? [{ role: "system", content: system.trim() }] : [];
  for (const node of nodes) {
    if (node.role === "user") {
      messages.push({ role: "user", content: withFiles(node) });
    } else if (node.role === "assistant") {
      const calls = (node.calls ?? []).map(({ id, name, arguments: text }) => ({
        id, type: "function", function: { name, arguments: text || "{}" },
      }));
      messages.push({ role: "assistant", content: node.content, ...(calls.length ? { tool_calls: calls } : {}) });
      for (const call of node.calls ?? []) {
        messages.push({ role: "tool", tool_call_id: call.id, content: resultText(call) });
      }
    }
  }
  return messages;
}

function withFiles(node) {
  const files = (node.files ?? []).map((file) => {
    if (file.image) return `[image: ${file.name}]`;
    const fence = "`".repeat(Math.max(3, longestRun(file.text) + 1));
    return `${file.name}\n${fence}${extension(file.name)}\n${file.text}\n${fence}`;
  });
  return [...files, node.content].filter(Boolean).join("\n\n");
}

export function longestRun(text) {
  return Math.max(0, ...[...text.matchAll(/`+/g)].map((found) => found[0].length));
}

function extension(name) {
  return /\.([A-Za-z0-9+]{1,8})$/.exec(name)?.[1].toLowerCase() ?? "";
}

function resultText(call) {
  if (call.state === "done") return call.result?.content || "done";
  if (call.state === "failed") return `error: ${call.result?.error?.message ?? "it failed"}`;
  return "error: the user did not run this tool";
}

// Adds one chunk of a chat completion to an answer.
export function addChunk(node, chunk) {
  if (chunk.usage) node.usage = chunk.usage;
  if (chunk.timings) node.timings = chunk.timings;
  const choice = chunk.choices?.[0];
  if (!choice) return "";
  if (choice.finish_reason) node.finish = choice.finish_reason;
  const delta = choice.delta ?? {};
  for (const part of delta.tool_calls ?? []) addCall(node, part);
  const text = typeof delta.content === "string" ? delta.content : "";
  node.content += text;
  return text;
}

function addCall(node, part) {
  node.calls ??= [];
  const place = part.index ?? node.calls.length;
  while (node.calls.length <= place) node.calls.push({ id: "", name: "", arguments: "", state: "written" });
  const call = node.calls[place];
  if (part.id) call.id = part.id;
  if (part.function?.name) call.name = part.function.name;
  call.arguments += part.function?.arguments ?? "";
}

// Speed and size of an answer. Times in milliseconds: asked, first token, end. The server's own rate is used where it
// tells one: here, several tokens may arrive at once.
export function statsOf(usage, times, timings = undefined) {
  const first = times.first ?? times.end;
  const tokens = usage?.completion_tokens ?? null;
  const seconds = (times.end - first) / 1000;
  return {
    firstMs: Math.max(0, Math.round(first - times.asked)),
    tokens,
    perSecond: timings?.predicted_per_second || (tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null),
    prompt: usage?.prompt_tokens ?? null,
    cached: usage?.prompt_tokens_details?.cached_tokens ?? 0,
    total: usage?.total_tokens ?? null,
  };
}

export function titleOf(text) {
  const line = text.trim().split("\n").find((each) => each.trim()) ?? "";
  const letters = [...line.replace(/^[#>*\-\s]+/, "")];
  return letters.length > 48 ? `${letters.slice(0, 47).join("")}…` : letters.join("");
}
