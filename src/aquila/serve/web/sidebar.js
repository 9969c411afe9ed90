// The list of conversations: open, search, rename, delete, take along.

import { $, ask, el, iconButton, saveFile, toast } from "./dom.js";
import { language, t } from "./i18n.js";
import { state } from "./state.js";

export class Sidebar {
  #searching = null;

  // `hooks` = {open(id), created(), removed(id)}
  constructor(store, hooks) {
    this.store = store;
    this.hooks = hooks;
    let timer = 0;
    $("search").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.show(), 120);
    });
    $("search").addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        event.preventDefault();
        $("conversations").querySelector("a")?.[event.key === "Enter" ? "click" : "focus"]();
      } else if (event.key === "Escape" && event.target.value) {
        event.stopPropagation();
        event.target.value = "";
        this.show();
      }
    });
    $("conversations").addEventListener("keydown", (event) => this.#moveFocus(event));
    $("export").addEventListener("click", async () => this.#save(await store.export(), "aquila-conversations"));
    $("import").addEventListener("click", () => $("import-file").click());
    $("import-file").addEventListener("change", () => this.#import());
  }

  async show() {
    this.#searching?.abort();
    this.#searching = new AbortController();
    const { signal } = this.#searching;
    const query = $("search").value.trim();
    let entries = await this.store.list();
    let found = new Map();
    if (query) {
      found = await this.store.search(query, signal);
      entries = entries.filter((entry) => found.has(entry.id) || entry.title.toLowerCase().includes(query.toLowerCase()));
    }
    if (signal.aborted) return;
    const rows = entries.map((entry) => this.#row(entry, found.get(entry.id)));
    if (!this.store.keeps) rows.push(el("p", { class: "help" }, t("notKept")));
    else if (!rows.length) rows.push(el("p", { class: "help" }, t(query ? "nothingFound" : "noConversations")));
    $("conversations").replaceChildren(el("ul", {}, rows.filter((row) => row.matches("li"))), ...rows.filter((row) => !row.matches("li")));
  }

  #row(entry, found) {
    const current = entry.id === state.conversation.id;
    const link = el("a", { href: `#${entry.id}`, "aria-current": current ? "page" : null, title: entry.title }, el("span", { class: "title" }, entry.title),
      found ? el("span", { class: "found" }, found) : el("time", { class: "found", datetime: new Date(entry.updated).toISOString() }, dayOf(entry.updated)));
    link.addEventListener("click", (event) => {
      event.preventDefault();
      this.hooks.open(entry.id);
    });
    return el("li", { class: current ? "current" : null }, link, el("span", { class: "row-tools" },
      iconButton("edit", `${t("rename")}: ${entry.title}`, () => this.#rename(entry)),
      iconButton("download", `${t("exportOne")}: ${entry.title}`, async () => this.#save(await this.store.export([entry.id]), "aquila-conversation")),
      iconButton("trash", `${t("remove")}: ${entry.title}`, () => this.#remove(entry))));
  }

  #moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches("a")) return;
    event.preventDefault();
    const links = [...$("conversations").querySelectorAll("a")];
    (links[links.indexOf(event.target) + step] ?? $("search")).focus();
  }

  async #rename(entry) {
    const title = await ask({ title: t("rename"), input: { value: entry.title, maxlength: "200" }, confirm: t("save"), cancel: t("cancel") });
    if (!title?.trim()) return;
    const own = entry.id === state.conversation.id;
    if (own) state.conversation.title = title.trim();
    await this.store.save({ ...(own ? state.conversation : entry), title: title.trim() });
    await this.show();
  }

  async #remove(entry) {
    const sure = await ask({ title: t("removeTitle"), text: t("removeText", { title: entry.title }), confirm: t("remove"), cancel: t("cancel"), danger: true });
    if (!sure) return;
    await this.store.remove(entry.id);
    if (entry.id === state.conversation.id) this.hooks.removed();
    await this.show();
    $("search").focus();
  }

  #save(text, name) {
    saveFile(`${name}-${new Date().toISOString().slice(0, 10)}.json`, text, "application/json");
  }

  async #import() {
    const [file] = $("import-file").files;
    $("import-file").value = "";
    if (!file) return;
    try {
      toast(t("imported", { count: await this.store.import(await file.text()) }));
    } catch (error) {
      toast(t("importFailed", { reason: error.message }));
    }
    await this.show();
  }
}

function dayOf(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  const format = today ? { hour: "2-digit", minute: "2-digit" } : { month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(language() === "zh" ? "zh-CN" : "en", format).format(date);
}
