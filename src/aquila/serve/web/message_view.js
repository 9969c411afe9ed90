// One message on the page: its text, files, tool cards, and what can be done with it.
//
// A message far from what is seen is plain text; it becomes markdown when it comes near, so that a long conversation
// opens at once.

import { announce, copyText, el, fill, icon, iconButton, textButton } from "./dom.js";
import { number, t } from "./i18n.js";
import { renderMarkdown } from "./render.js";
import { StreamingMarkdown } from "./streaming.js";
import { toolCard } from "./tool_card.js";

const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting) target.dispatchEvent(new CustomEvent("near"));
  }
}, { rootMargin: "1500px 0px" });

export class MessageView {
  // `actions` = {edit, regenerate, continue, turn, runCall, declineCall, editImage}
  constructor(node, tree, actions) {
    this.node = node;
    this.tree = tree;
    this.actions = actions;
    this.stream = null;
    this.text = el("div", { class: "text" });
    this.extras = el("div", { class: "extras" });
    this.bar = el("div", { class: "bar" });
    this.element = el("article", { class: `message ${node.role}`, "data-id": node.id, "aria-label": t(node.role === "user" ? "you" : "assistant") },
      el("h2", { class: "hidden" }, t(node.role === "user" ? "you" : "assistant")),
      el("div", { class: "bubble" }, this.text, this.extras), this.bar);
    this.#fill();
  }

  #fill() {
    if (this.node.role === "user") {
      this.text.classList.add("raw");
      this.text.textContent = this.node.content;
    } else if (this.node.content) {
      this.text.classList.add("raw");
      this.text.textContent = this.node.content;
      this.element.addEventListener("near", () => this.#showMarkdown(), { once: true });
      near.observe(this.element);
    }
    this.refresh();
  }

  #showMarkdown() {
    near.unobserve(this.element);
    if (this.stream || !this.text.classList.contains("raw")) return;
    this.text.classList.remove("raw");
    this.text.replaceChildren(...renderMarkdown(this.node.content));
  }

  // The answer is being written from here on.
  begin() {
    near.unobserve(this.element);
    this.text.classList.remove("raw");
    this.text.replaceChildren();
    this.element.classList.add("streaming");
    this.element.setAttribute("aria-busy", "true");
    this.stream = new StreamingMarkdown(this.text, announce);
    if (this.node.content) this.stream.update(this.node.content);
    this.refresh();
  }

  grow() {
    this.stream.update(this.node.content);
    if (this.node.calls?.length) this.refreshExtras();
  }

  end() {
    this.stream.finish(this.node.content);
    this.stream = null;
    this.element.classList.remove("streaming");
    this.element.removeAttribute("aria-busy");
    this.refresh();
  }

  refresh() {
    this.refreshExtras();
    fill(this.bar, this.#barParts());
  }

  refreshExtras() {
    const { node } = this;
    const parts = (node.files ?? []).map(fileChip);
    if (this.stream && !node.content && !node.calls?.length) {
      parts.push(el("div", { class: "waiting", role: "img", "aria-label": t("thinking") }, el("i"), el("i"), el("i")));
    }
    for (const [place, call] of (node.calls ?? []).entries()) parts.push(toolCard(call, node, place, this.actions));
    if (!this.stream && node.error) parts.push(errorCard(node.error, () => this.actions.regenerate(node)));
    fill(this.extras, parts);
  }

  #barParts() {
    const { node } = this;
    if (this.stream) return [];
    const parts = [];
    const siblings = this.tree.siblings(node.id);
    if (siblings.length > 1) parts.push(this.#branches(siblings));
    if (node.content) {
      const copy = iconButton("copy", t("copy"), () => copyText(node.content, copy, t("copied")));
      parts.push(copy);
    }
    if (node.role === "user") {
      parts.push(iconButton("edit", t("edit"), () => this.actions.edit(node)));
    } else {
      parts.push(iconButton("retry", t("regenerate"), () => this.actions.regenerate(node)));
      if (this.#canContinue()) parts.push(textButton("forward", t("continue"), () => this.actions.continue(node), { title: node.finish === "length" ? t("cutOff") : null }));
      if (node.finish === "stopped") parts.push(el("span", { class: "stats" }, t("stopped")));
      parts.push(this.#stats());
    }
    return parts;
  }

  #canContinue() {
    const { node, tree } = this;
    const last = !tree.children.get(node.id)?.length;
    return last && node.content && !node.calls?.length && ["length", "stopped"].includes(node.finish);
  }

  #branches(siblings) {
    const place = siblings.indexOf(this.node.id) + 1;
    const step = (name, label, by, off) => iconButton(name, t(label), () => this.actions.turn(this.node, by), { disabled: off });
    return el("span", { class: "branches" }, step("left", "previous", -1, place === 1),
      el("span", { "aria-label": t("versionOf", { place, count: siblings.length }), role: "img" }, `${place}/${siblings.length}`),
      step("right", "next", 1, place === siblings.length));
  }

  #stats() {
    const { stats } = this.node;
    if (!stats?.tokens) return null;
    const values = { tokens: number(stats.tokens), first: number(stats.firstMs / 1000, 2), speed: stats.perSecond && number(stats.perSecond, 1) };
    return el("span", { class: "stats", title: t("cachedTokens", { count: stats.cached, prompt: stats.prompt }) },
      t(stats.perSecond ? "stats" : "statsShort", values));
  }

  // The text becomes a box to edit; `done` gets the new text, or null.
  startEditing(done) {
    const box = el("textarea", { class: "edit-box", "aria-label": t("editLabel") });
    box.value = this.node.content;
    const finish = (text) => {
      form.replaceWith(this.text);
      this.bar.hidden = false;
      done(text);
    };
    const form = el("form", { class: "editing" }, box, el("div", { class: "dialog-buttons" },
      el("button", { type: "button", class: "plain", onclick: () => finish(null) }, t("cancel")),
      el("button", { type: "submit", class: "solid" }, t("send"))));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (box.value.trim()) finish(box.value);
    });
    box.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        form.requestSubmit();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        finish(null);
      }
    });
    this.bar.hidden = true;
    this.text.replaceWith(form);
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }
}

export function fileChip(file) {
  if (file.image) return el("img", { class: "upload", src: file.image, alt: file.name });
  return el("span", { class: "chip" }, icon("clip"), el("span", {}, file.name));
}

export function errorCard(error, retry) {
  return el("div", { class: "error-card", role: "alert" }, el("strong", {}, t("error")), el("p", {}, error.message),
    error.hint && el("pre", { tabindex: "0" }, error.hint), retry && textButton("retry", t("retry"), retry));
}
