// Markdown to a tree of plain objects. Nothing here touches the page; HTML in the text stays text.
//
//   parseBlocks("# Hi\n\nyou") -> [{type: "heading", level: 1, start: 0, end: 5, inline: [...]}, {type: "paragraph", ...}]
//
// `start` and `end` are offsets in the text. A text that grows changes only blocks that are not `settled`, so a stream
// needs to parse only from the first of those on (message_view.js); the tests hold the parser to it.

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^\n`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( +)(.*)|)$/;
const QUOTE = /^ {0,3}> ?/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MAX_DEPTH = 12;
const MAX_SPAN = 2000; // characters that emphasis or a link may span: nothing is looked for without an end

export function parseBlocks(text, depth = 0) {
  const lines = splitLines(text);
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].text.trim()) {
      at += 1;
      continue;
    }
    const [block, next] = readBlock(lines, at, depth);
    block.start = lines[at].start;
    block.end = lines[next - 1].end;
    blocks.push(block);
    at = next;
  }
  return blocks;
}

// How many of the blocks of a text stay as they are, whatever is added to the text.
export function numSettled(blocks, text) {
  if (!blocks.length) return 0;
  const open = text.indexOf("\n", blocks.at(-1).start) < 0; // its first line may still become something else
  return Math.max(0, blocks.length - (open ? 2 : 1));
}

function splitLines(text) {
  const lines = [];
  let start = 0;
  while (start < text.length) {
    const found = text.indexOf("\n", start);
    const end = found < 0 ? text.length : found + 1;
    const line = text.slice(start, found < 0 ? end : found).replace(/\r$/, "");
    lines.push({ text: line, start, end });
    start = end;
  }
  return lines;
}

function readBlock(lines, at, depth) {
  const line = lines[at].text;
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: "heading", level: heading[1].length, inline: parseInline(heading[2] ?? "") }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (QUOTE.test(line) && depth < MAX_DEPTH) return readQuote(lines, at, depth);
  if (ITEM.test(line) && depth < MAX_DEPTH) return readList(lines, at, depth);
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at);
}

function readFence(lines, at, [, indent, marks, info]) {
  const body = [];
  const closing = new RegExp(`^ {0,3}${marks[0]}{${marks.length},}[ \t]*$`);
  let next = at + 1;
  let closed = false;
  while (next < lines.length && !closed) {
    const line = lines[next].text;
    closed = closing.test(line);
    if (!closed) body.push(stripIndent(line, indent.length));
    next += 1;
  }
  const language = info.trim().split(/\s+/)[0].toLowerCase();
  return [{ type: "code", language, text: body.join("\n"), closed }, next];
}

function stripIndent(line, width) {
  let cut = 0;
  while (cut < width && line[cut] === " ") cut += 1;
  return line.slice(cut);
}

function readQuote(lines, at, depth) {
  const body = [];
  let next = at;
  while (next < lines.length && (QUOTE.test(lines[next].text) || continues(lines, next, body))) {
    body.push(lines[next].text.replace(QUOTE, ""));
    next += 1;
  }
  return [{ type: "quote", blocks: parseBlocks(body.join("\n"), depth + 1) }, next];
}

// A line of text right behind a paragraph of a quote or an item belongs to it.
function continues(lines, at, body) {
  const line = lines[at].text;
  return body.length > 0 && Boolean(body.at(-1).trim()) && Boolean(line.trim()) && !startsBlock(line);
}

function startsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

function readList(lines, at, depth) {
  const first = ITEM.exec(lines[at].text);
  const ordered = /\d/.test(first[2]);
  const kind = first[2].at(-1);
  const items = [];
  let loose = false;
  let blankBefore = false;
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next].text);
    if (!item || item[2].at(-1) !== kind || RULE.test(lines[next].text)) break;
    const [body, after, blank] = readItem(lines, next, item);
    loose ||= blankBefore || /\n\n/.test(body.trimEnd());
    items.push(readTask(body, depth));
    blankBefore = blank;
    next = after;
  }
  return [{ type: "list", ordered, first: ordered ? Number.parseInt(first[2], 10) : 1, loose, items }, next];
}

// The text of an item without its indentation, the line behind it, and whether a blank line stood in between.
function readItem(lines, at, [, indent, mark, space, rest]) {
  const padding = space === undefined || space.length > 4 ? 1 : space.length;
  const width = indent.length + mark.length + padding;
  const body = [(space ?? "").slice(padding) + (rest ?? "")];
  let next = at + 1;
  let blanks = 0;
  while (next < lines.length) {
    const line = lines[next].text;
    if (!line.trim()) {
      blanks += 1;
    } else if (line.search(/\S/) >= Math.min(width, indent.length + 2)) {
      body.push(...Array(blanks).fill(""), stripIndent(line, width));
      blanks = 0;
    } else if (!blanks && continues(lines, next, body)) {
      body.push(line.trimStart());
    } else {
      break;
    }
    next += 1;
  }
  return [body.join("\n"), next, blanks > 0];
}

function readTask(body, depth) {
  const task = /^\[([ xX])\][ \t]+/.exec(body);
  const blocks = parseBlocks(task ? body.slice(task[0].length) : body, depth + 1);
  return { checked: task ? task[1] !== " " : null, blocks };
}

function startsTable(lines, at) {
  const below = lines[at + 1];
  if (!below || !lines[at].text.includes("|") || !DELIMITER.test(below.text) || !/[|:]/.test(below.text)) return false;
  return splitRow(lines[at].text).length === splitRow(below.text).length;
}

function readTable(lines, at) {
  const head = splitRow(lines[at].text);
  const align = splitRow(lines[at + 1].text).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return left && right ? "center" : right ? "right" : left ? "left" : null;
  });
  const rows = [];
  let next = at + 2;
  while (next < lines.length && lines[next].text.trim() && !startsBlock(lines[next].text)) {
    const cells = splitRow(lines[next].text);
    rows.push(head.map((_, column) => parseInline(cells[column] ?? "")));
    next += 1;
  }
  return [{ type: "table", align, head: head.map((cell) => parseInline(cell)), rows }, next];
}

function splitRow(line) {
  const cells = [];
  let cell = "";
  const text = line.trim().replace(/^\|/, "");
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (text[at] === "|") {
      cells.push(cell.trim());
      cell = "";
    } else {
      cell += text[at];
    }
  }
  if (cell.trim() || !text.endsWith("|")) cells.push(cell.trim());
  return cells;
}

function readParagraph(lines, at) {
  const body = [lines[at].text.trim()];
  let next = at + 1;
  while (next < lines.length && lines[next].text.trim()) {
    if (startsBlock(lines[next].text) || startsTable(lines, next)) break;
    body.push(lines[next].text.trim());
    next += 1;
  }
  return [{ type: "paragraph", inline: parseInline(body.join("\n")) }, next];
}

// ---- inside a line -------------------------------------------------------------------------------------------------

const ESCAPED = /^\\([!-/:-@[-`{-~])/;
const ANGLE_LINK = /^<((?:https?:\/\/|mailto:)[^\s<>]+)>/i;
const BARE_LINK = /^https?:\/\/[^\s<>"'`，。；：！？、）】》”’]+/i;
const TARGET = /^\(\s*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/;
const EMPHASIS = { "*": "emphasis", _: "emphasis", "**": "strong", __: "strong", "~~": "deleted" };
const WORD = /[\p{L}\p{N}]/u;

export function parseInline(text, depth = 0) {
  const nodes = [];
  let plain = "";
  let at = 0;
  const flush = () => {
    if (plain) nodes.push({ type: "text", text: plain });
    plain = "";
  };
  while (at < text.length) {
    const found = "\\`*_~[!<h\n".includes(text[at]) ? readSpan(text, at, depth) : null;
    if (!found) {
      plain += text[at];
      at += 1;
    } else if (found.text !== undefined && found.type === undefined) {
      plain += found.text;
      at = found.next;
    } else {
      flush();
      const { next, ...node } = found;
      nodes.push(node);
      at = next;
    }
  }
  flush();
  return nodes;
}

function readSpan(text, at, depth) {
  const rest = () => text.slice(at, at + MAX_SPAN);
  switch (text[at]) {
    case "\n":
      return { type: "break", next: at + 1 };
    case "\\": {
      const escaped = ESCAPED.exec(text.slice(at, at + 2));
      return escaped && { text: escaped[1], next: at + 2 };
    }
    case "`":
      return readCode(text, at);
    case "<": {
      const link = ANGLE_LINK.exec(rest());
      return link && linkTo(link[1], [{ type: "text", text: link[1] }], at + link[0].length);
    }
    case "h": {
      if (at > 0 && WORD.test(text[at - 1]) && text.charCodeAt(at - 1) < 128) return null;
      const link = BARE_LINK.exec(rest());
      return link && bareLink(link[0], at);
    }
    case "!":
      return text[at + 1] === "[" ? readLink(text, at + 1, depth, true) : null;
    case "[":
      return readLink(text, at, depth, false);
    default:
      return depth < MAX_DEPTH ? readEmphasis(text, at, depth) : null;
  }
}

function readCode(text, at) {
  const marks = /^`+/.exec(text.slice(at, at + 64))[0];
  let end = text.indexOf(marks, at + marks.length);
  while (end >= 0 && (text[end + marks.length] === "`" || text[end - 1] === "`")) {
    let past = end;
    while (text[past] === "`") past += 1;
    end = text.indexOf(marks, past);
  }
  if (end < 0) return { text: marks, next: at + marks.length };
  let code = text.slice(at + marks.length, end).replaceAll("\n", " ");
  if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
  return { type: "code", text: code, next: end + marks.length };
}

function bareLink(found, at) {
  let url = found.replace(/[.,;:!?*_~]+$/, "");
  while (url.endsWith(")") && url.split("(").length < url.split(")").length) url = url.slice(0, -1);
  return linkTo(url, [{ type: "text", text: url }], at + url.length);
}

function readLink(text, at, depth, image) {
  const close = matchingBracket(text, at);
  if (close < 0) return null;
  const target = TARGET.exec(text.slice(close + 1, close + 1 + MAX_SPAN));
  if (!target) return null;
  const label = text.slice(at + 1, close);
  const next = close + 1 + target[0].length;
  const inside = depth < MAX_DEPTH && !image ? parseInline(label, depth + 1) : [{ type: "text", text: label }];
  return linkTo(target[1] ?? target[2], inside, next, image);
}

function matchingBracket(text, at) {
  let depth = 0;
  const end = Math.min(text.length, at + MAX_SPAN);
  for (let place = at; place < end; place += 1) {
    if (text[place] === "\\") place += 1;
    else if (text[place] === "[") depth += 1;
    else if (text[place] === "]" && --depth === 0) return place;
  }
  return -1;
}

// A link with an address that the page does not open is shown as its text. Pictures are never fetched from elsewhere:
// they become links too.
function linkTo(address, inline, next, image = false) {
  const url = safeUrl(address);
  if (!url) return { type: "span", inline, next };
  return { type: "link", url, inline: withoutLinks(inline), image, next };
}

function withoutLinks(inline) {
  return inline.flatMap((node) => {
    if (node.type === "link" || node.type === "span") return withoutLinks(node.inline);
    return node.inline ? [{ ...node, inline: withoutLinks(node.inline) }] : [node];
  });
}

export function safeUrl(address) {
  let url;
  try {
    url = new URL(address.trim());
  } catch {
    return null;
  }
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

function readEmphasis(text, at, depth) {
  const mark = text[at];
  let run = 1;
  while (text[at + run] === mark && run < 3) run += 1;
  const runText = mark.repeat(run);
  if (!opens(text, at, run)) return { text: runText, next: at + run };
  for (const size of run === 3 ? [2, 1] : [run]) {
    const marks = mark.repeat(size);
    if (!(marks in EMPHASIS)) continue;
    const end = closingMark(text, at + size, marks);
    if (end < 0) continue;
    const inline = parseInline(text.slice(at + size, end), depth + 1);
    return { type: EMPHASIS[marks], inline, next: end + size };
  }
  return { text: runText, next: at + run };
}

function opens(text, at, run) {
  const after = text[at + run];
  if (after === undefined || /\s/.test(after)) return false;
  return text[at] !== "_" || at === 0 || !WORD.test(text[at - 1]);
}

function closingMark(text, from, marks) {
  const size = marks.length;
  const end = Math.min(text.length, from + MAX_SPAN);
  for (let place = from; place < end; place += 1) {
    if (text[place] === "\\") {
      place += 1;
    } else if (text[place] === "`") {
      const code = readCode(text, place);
      place = code.next - 1;
    } else if (text.startsWith(marks, place)) {
      let run = size;
      while (text[place + run] === marks[0]) run += 1;
      const word = marks[0] === "_" && WORD.test(text[place + run] ?? " ");
      const fits = run === size || run >= 3 || (size === 1 && run !== 2);
      if (place > from && !/\s/.test(text[place - 1]) && !word && fits) return place + run - size;
      place += run - 1;
    }
  }
  return -1;
}
