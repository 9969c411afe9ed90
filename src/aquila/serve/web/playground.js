// Complete and Infill: plain text that the model goes on from, or fills a gap in. What base models are good at.

import { OfflineError, stream } from "./api.js";
import { statsOf } from "./conversation.js";
import { $, announce, copyText, el, iconButton, textButton } from "./dom.js";
import { number, t } from "./i18n.js";
import { errorCard } from "./message_view.js";
import { samplingFields } from "./preferences.js";
import { model, state } from "./state.js";

export class Playground {
  #texts = { prompt: "", prefix: "", suffix: "" };
  #made = "";
  #stats = null;
  #error = null;

  constructor(offline) {
    this.offline = offline;
  }

  get #infill() {
    return state.mode === "infill";
  }

  get #first() {
    return this.#infill ? "prefix" : "prompt";
  }

  // A mode that was left takes its completion along no further.
  enter() {
    this.#made = "";
    this.#stats = this.#error = null;
    this.show();
  }

  show() {
    const warn = this.#infill && model()?.fill_in_the_middle === false;
    this.out = el("output", { id: "made", class: "made", tabindex: "0", "aria-label": t("completion") });
    this.foot = el("div", { class: "bar" });
    $("playground").replaceChildren(el("div", { class: "sheet" },
      warn && el("p", { class: "note" }, t("noInfill", { model: model().id })),
      this.#field(this.#first, this.#infill ? "prefix" : "prompt", this.#infill ? 8 : 12),
      this.out,
      this.#infill && this.#field("suffix", "suffix", 6),
      this.foot));
    this.#showOutput();
  }

  #field(name, label, rows) {
    const field = el("textarea", { id: `play-${name}`, rows, spellcheck: "false", autocapitalize: "off", placeholder: name === "prompt" ? t("promptPlaceholder") : null });
    field.value = this.#texts[name];
    field.addEventListener("input", () => { this.#texts[name] = field.value; });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
        event.preventDefault();
        this.run();
      }
    });
    return el("div", { class: "play-field" }, el("label", { for: `play-${name}` }, t(label)), field);
  }

  #showOutput() {
    this.out.classList.toggle("blank", !this.#made);
    this.out.textContent = this.#made || t("completionEmpty");
    const running = Boolean(state.running);
    const parts = running
      ? [el("button", { type: "button", class: "solid", id: "play-stop", onclick: () => state.running?.abort() }, t("stop"))]
      : [el("button", { type: "button", class: "solid", id: "play-run", onclick: () => this.run() }, t(this.#made ? "again" : this.#infill ? "runInfill" : "runComplete")), el("kbd", { "aria-hidden": "true" }, t("ctrlEnter"))];
    if (!running && this.#made) {
      parts.push(textButton("check", t("accept"), () => this.#accept()));
      const copy = iconButton("copy", t("copy"), () => copyText(this.#made, copy, t("copied")));
      parts.push(copy, iconButton("trash", t("clear"), () => this.enter()));
    }
    if (this.#stats?.tokens) {
      const values = { tokens: number(this.#stats.tokens), first: number(this.#stats.firstMs / 1000, 2), speed: this.#stats.perSecond && number(this.#stats.perSecond, 1) };
      parts.push(el("span", { class: "stats" }, t(this.#stats.perSecond ? "stats" : "statsShort", values)));
    }
    this.foot.replaceChildren(...parts, ...(this.#error ? [errorCard(this.#error, null)] : []));
  }

  // What was made joins the text, and the model can go on from there.
  #accept() {
    this.#texts[this.#first] += this.#made;
    this.enter();
    const field = $(`play-${this.#first}`);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
    field.scrollTop = field.scrollHeight;
  }

  async run() {
    if (state.running) return;
    const prompt = this.#texts[this.#first];
    const fields = this.#infill ? { prompt, suffix: this.#texts.suffix } : { prompt };
    const running = new AbortController();
    const times = { asked: performance.now(), first: null };
    state.running = running;
    this.#made = "";
    this.#stats = this.#error = null;
    this.#showOutput();
    announce(t("answering"));
    let usage = null;
    let timings = null;
    try {
      await stream("/v1/completions", { model: model()?.id, ...samplingFields(), ...fields }, running.signal, (chunk) => {
        usage = chunk.usage ?? usage;
        timings = chunk.timings ?? timings;
        const text = chunk.choices?.[0]?.text ?? "";
        if (!text) return;
        times.first ??= performance.now();
        if (!this.#made) this.out.textContent = "";
        this.#made += text;
        this.out.classList.remove("blank");
        this.out.append(text);
      });
    } catch (error) {
      if (error instanceof OfflineError) this.offline();
      if (error.name !== "AbortError") this.#error = { message: error instanceof OfflineError ? t("offline") : error.message };
    } finally {
      state.running = null;
      this.#stats = usage && statsOf(usage, { ...times, end: performance.now() }, timings);
      this.#showOutput();
      announce(this.#made || t("answered"));
    }
  }
}
