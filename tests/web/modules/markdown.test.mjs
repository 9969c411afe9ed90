import assert from "node:assert/strict";
import test from "node:test";
import { numSettled, parseBlocks, parseInline, safeUrl } from "../web/markdown.js";

const text = (value) => ({ type: "text", text: value });
const shape = (blocks) => blocks.map(({ start, end, ...rest }) => rest);
const parse = (source) => shape(parseBlocks(source));

test("the usual blocks", () => {
  assert.deepEqual(parse("# Title #\n\none\ntwo\n\n---"), [
    { type: "heading", level: 1, inline: [text("Title")] },
    { type: "paragraph", inline: [text("one"), { type: "break" }, text("two")] },
    { type: "rule" },
  ]);
});

test("a fence keeps what is in it, knows its language, and says whether it is closed", () => {
  assert.deepEqual(parse("````Python x\n```\n# no heading\n````"), [
    { type: "code", language: "python", text: "```\n# no heading", closed: true },
  ]);
  assert.deepEqual(parse("```\n  a\n"), [{ type: "code", language: "", text: "  a", closed: false }]);
});

test("lists: nested, numbered, tasks, loose", () => {
  const [list] = parse("3. one\n   - in\n4. [x] two\n");
  assert.equal(list.ordered, true);
  assert.equal(list.first, 3);
  assert.equal(list.loose, false);
  assert.equal(list.items[0].blocks[1].type, "list");
  assert.equal(list.items[1].checked, true);
  assert.equal(parse("- a\n\n- b")[0].loose, true);
  assert.equal(parse("- a\n\n- b").length, 1);
  assert.equal(parse("- a\n\ntext")[0].loose, false);
});

test("a code block inside a list item", () => {
  const [list] = parse("1. run\n   ```bash\n   ls\n   ```\n2. done");
  assert.deepEqual(shape(list.items[0].blocks)[1], { type: "code", language: "bash", text: "ls", closed: true });
  assert.equal(list.items.length, 2);
});

test("quotes take the lazy line that follows", () => {
  const [quote] = parse("> a\nb\n\nc");
  assert.deepEqual(shape(quote.blocks), [{ type: "paragraph", inline: [text("a"), { type: "break" }, text("b")] }]);
});

test("tables with alignment, missing cells and an escaped bar", () => {
  const [table] = parse("| a | b |\n|:-:|--:|\n| 1 \\| 2 |\n\nafter");
  assert.deepEqual(table.align, ["center", "right"]);
  assert.deepEqual(table.rows, [[[text("1 | 2")], []]]);
});

test("emphasis, also in Chinese, and not inside words", () => {
  assert.deepEqual(parseInline("**粗体**和*斜*"), [
    { type: "strong", inline: [text("粗体")] },
    text("和"),
    { type: "emphasis", inline: [text("斜")] },
  ]);
  assert.deepEqual(parseInline("snake_case_name 2 * 3 * 4"), [text("snake_case_name 2 * 3 * 4")]);
  assert.deepEqual(parseInline("***both***")[0].type, "strong");
  assert.deepEqual(parseInline("~~gone~~"), [{ type: "deleted", inline: [text("gone")] }]);
  assert.deepEqual(parseInline("\\*no\\*"), [text("*no*")]);
});

test("code spans win over emphasis", () => {
  assert.deepEqual(parseInline("*a `*` b*"), [
    { type: "emphasis", inline: [text("a "), { type: "code", text: "*" }, text(" b")] },
  ]);
  assert.deepEqual(parseInline("`` a`b ``"), [{ type: "code", text: "a`b" }]);
  assert.deepEqual(parseInline("`open"), [text("`open")]);
});

test("links that lead to the web, and no others", () => {
  const link = (url, label) => [{ type: "link", url, inline: [text(label)], image: false }];
  assert.deepEqual(parseInline('[a](https://x.org/b_(c) "t")'), link("https://x.org/b_(c)", "a"));
  assert.deepEqual(parseInline("https://x.org/a."), [...link("https://x.org/a", "https://x.org/a"), text(".")]);
  assert.deepEqual(parseInline("见https://x.org/a。好")[1].url, "https://x.org/a");
  for (const url of ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", " javascript:x", "/x"]) {
    assert.equal(safeUrl(url), null, url);
    assert.equal(JSON.stringify(parseInline(`[a](${url})`)).includes('"link"'), false, url);
  }
  assert.equal(safeUrl("java\nscript:alert(1)"), null);
  assert.deepEqual(parseInline("![cat](https://x.org/c.png)")[0], { type: "link", url: "https://x.org/c.png", inline: [text("cat")], image: true });
});

test("HTML is text", () => {
  assert.deepEqual(parseInline("<img src=x onerror=alert(1)>"), [text("<img src=x onerror=alert(1)>")]);
  assert.deepEqual(parse("<script>alert(1)</script>")[0].inline, [text("<script>alert(1)</script>")]);
});

test("offsets cover the text, in order", () => {
  const source = "# a\n\nb\r\nc\n- d\n\n```\ne";
  const blocks = parseBlocks(source);
  assert.equal(blocks.at(-1).end, source.length);
  for (const [place, block] of blocks.entries()) {
    assert.ok(block.start < block.end);
    if (place) assert.ok(blocks[place - 1].end <= block.start);
  }
});

function random(seed) {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

const PIECES = ["- a\n", "1. b\n", "  c\n", "\n", "\n\n", "text ", "| a | b |\n", "|---|---|\n", "```\n", "```py\n", "> q\n", "# h\n", "---\n", "**x", "** ", "    deep\n", "中文，", "`", "~~~\n", "\r\n", "* * *\n", "[a](https://b.c)"];

test("a text that grows keeps its settled blocks: parsing from behind them equals parsing all of it", () => {
  const draw = random(7);
  for (let round = 0; round < 400; round += 1) {
    const source = Array.from({ length: 3 + draw(14) }, () => PIECES[draw(PIECES.length)]).join("");
    const frozen = [];
    let from = 0;
    for (let end = 0; end < source.length; ) {
      end = Math.min(source.length, end + 1 + draw(9));
      const blocks = parseBlocks(source.slice(from, end)).map((b) => ({ ...b, start: b.start + from, end: b.end + from }));
      const settled = numSettled(blocks, source.slice(0, end));
      if (settled) {
        frozen.push(...blocks.slice(0, settled));
        from = blocks[settled].start;
      }
    }
    const rest = parseBlocks(source.slice(from)).map((b) => ({ ...b, start: b.start + from, end: b.end + from }));
    assert.deepEqual([...frozen, ...rest], parseBlocks(source), JSON.stringify(source));
  }
});

test("hostile input does not take for ever", { timeout: 60_000 }, () => {
  for (const bad of ["*".repeat(50_000), "[".repeat(50_000), "`a".repeat(20_000), "> ".repeat(20_000), "- ".repeat(20_000), "_a ".repeat(20_000), "|".repeat(20_000), "**a ".repeat(10_000), "<h".repeat(30_000), "![](".repeat(10_000)]) {
    assert.equal(parseBlocks(bad).at(-1).end, bad.length);
  }
});
