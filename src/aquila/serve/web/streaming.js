// A text that grows, as markdown: what is settled stays as it is, only what may still change is rendered again, once a
// frame. A code block that is being written gets the new text appended, and its colours when it is closed.

import { numSettled, parseBlocks } from "./markdown.js";
import { newOutline, renderBlock } from "./render.js";

export class StreamingMarkdown {
  #text = "";
  #from = 0; // where the text that is not settled begins
  #tail = []; // elements of that text
  #open = null; // {start, node}: the code block that is being written
  #frame = 0;
  #outline = newOutline(); // behind what is settled

  // `onSettled` gets the text of blocks that are complete.
  constructor(element, onSettled = () => {}) {
    this.element = element;
    this.onSettled = onSettled;
  }

  update(text) {
    this.#text = text;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#render(false);
    });
  }

  finish(text) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#text = text;
    this.#render(true);
  }

  #render(last) {
    const text = this.#text.slice(this.#from);
    const blocks = parseBlocks(text);
    const settled = last ? blocks.length : numSettled(blocks, text);
    if (!settled && this.#appendCode(blocks)) return;
    for (const element of this.#tail) element.remove();
    this.#open = null;
    const fixed = blocks.slice(0, settled).map((block) => renderBlock(last ? closed(block) : block, this.#outline));
    const outline = { ...this.#outline };
    this.#tail = blocks.slice(settled).map((block) => renderBlock(block, outline));
    this.element.append(...fixed, ...this.#tail);
    if (fixed.length) this.onSettled(fixed.map((element) => element.textContent).join("\n"));
    if (settled) this.#from += settled < blocks.length ? blocks[settled].start : text.length;
    if (this.#tail.length === 1) this.#remember(blocks.at(-1), this.#tail[0]);
  }

  #remember(block, element) {
    if (block.type === "code" && !block.closed) this.#open = { language: block.language, node: element.querySelector("code") };
  }

  #appendCode(blocks) {
    const block = blocks[0];
    if (!this.#open || blocks.length !== 1 || block.type !== "code" || block.closed) return false;
    if (block.language !== this.#open.language || !block.text.startsWith(this.#open.node.textContent)) return false;
    this.#open.node.append(block.text.slice(this.#open.node.textContent.length));
    this.#open.node.normalize();
    return true;
  }
}

function closed(block) {
  return block.type === "code" ? { ...block, closed: true } : block;
}
