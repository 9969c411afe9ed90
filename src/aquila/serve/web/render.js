// Blocks of markdown to elements.

import { copyText, el, icon } from "./dom.js";
import { highlight, languageOf } from "./highlight.js";
import { t } from "./i18n.js";
import { parseBlocks } from "./markdown.js";

export function renderMarkdown(text) {
  const outline = newOutline();
  return parseBlocks(text).map((block) => renderBlock(block, outline));
}

// The page has its own first two levels of headings; a text's follow them, and none is left out on the way down.
export function newOutline() {
  return { level: 2 };
}

export function renderBlock(block, outline) {
  switch (block.type) {
    case "heading":
      outline.level = Math.min(6, block.level + 2, outline.level + 1);
      return el(`h${outline.level}`, { class: `level-${block.level}` }, renderInline(block.inline));
    case "code":
      return renderCode(block);
    case "quote":
      return el("blockquote", {}, block.blocks.map((each) => renderBlock(each, outline)));
    case "list":
      return renderList(block, outline);
    case "table":
      return renderTable(block);
    case "rule":
      return el("hr");
    default:
      return el("p", {}, renderInline(block.inline));
  }
}

function renderInline(nodes) {
  return nodes.map((node) => {
    switch (node.type) {
      case "text":
        return document.createTextNode(node.text);
      case "break":
        return el("br");
      case "code":
        return el("code", {}, node.text);
      case "strong":
        return el("strong", {}, renderInline(node.inline));
      case "emphasis":
        return el("em", {}, renderInline(node.inline));
      case "deleted":
        return el("del", {}, renderInline(node.inline));
      case "link":
        return el("a", { href: node.url, target: "_blank", rel: "noopener noreferrer nofollow" },
          node.image && icon("image"), renderInline(node.inline.length ? node.inline : [{ type: "text", text: node.url }]));
      default:
        return el("span", {}, renderInline(node.inline));
    }
  });
}

function renderList(block, outline) {
  const list = el(block.ordered ? "ol" : "ul", { start: block.ordered && block.first !== 1 ? block.first : null });
  for (const item of block.items) {
    const entry = el("li", { class: item.checked === null ? null : "task" });
    if (item.checked !== null) {
      entry.append(el("input", { type: "checkbox", disabled: true, checked: item.checked, "aria-label": t(item.checked ? "taskDone" : "taskOpen") }), " ");
    }
    for (const child of item.blocks) {
      if (child.type === "paragraph" && !block.loose) entry.append(...renderInline(child.inline));
      else entry.append(renderBlock(child, outline));
    }
    list.append(entry);
  }
  return list;
}

function renderTable(block) {
  const cell = (tag, inline, column) =>
    el(tag, { class: block.align[column] && `align-${block.align[column]}`, scope: tag === "th" ? "col" : null }, renderInline(inline));
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": t("table") }, el("table", {},
    el("thead", {}, el("tr", {}, block.head.map((inline, column) => cell("th", inline, column)))),
    el("tbody", {}, block.rows.map((row) => el("tr", {}, row.map((inline, column) => cell("td", inline, column)))))));
}

export function renderCode({ language, text, closed = true }) {
  const code = el("code");
  if (closed) paint(code, language, text);
  else code.textContent = text;
  const copy = el("button", { type: "button", class: "copy-code", "aria-label": t("copyCode"), title: t("copyCode") }, icon("copy"));
  copy.addEventListener("click", () => copyText(code.textContent, copy, t("copied")));
  return el("figure", { class: "code" },
    el("figcaption", {}, el("span", {}, language || t("code")), copy),
    el("pre", { tabindex: "0", role: "region", "aria-label": t("codeOf", { language: language || t("code") }) }, code));
}

function paint(code, language, text) {
  if (!languageOf(language)) {
    code.textContent = text;
    return;
  }
  for (const [kind, piece] of highlight(language, text)) {
    code.append(kind ? el("span", { class: `hl-${kind}` }, piece) : piece);
  }
}
