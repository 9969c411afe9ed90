// The box where messages are written: its keys, its height, and the files that go along.

import { $, el, focusLater, icon, toast } from "./dom.js";
import { t } from "./i18n.js";
import { fileChip } from "./message_view.js";
import { picture } from "./store.js";
import { state } from "./state.js";

const MAX_TEXT = 256 << 10; // bytes of a text file; more than any context holds
const MAX_IMAGE = 8 << 20;

export class Composer {
  #files = [];

  // `hooks` = {send(text, files), stop(), editLast()}
  constructor(hooks) {
    this.hooks = hooks;
    this.box = $("compose");
    this.box.addEventListener("input", () => this.#fit());
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    $("stop").addEventListener("click", () => hooks.stop());
    $("attach").addEventListener("click", () => $("attach-file").click());
    $("attach-file").addEventListener("change", () => {
      this.attach([...$("attach-file").files]);
      $("attach-file").value = "";
    });
    $("chat").addEventListener("dragover", (event) => event.preventDefault());
    $("chat").addEventListener("drop", (event) => this.#take(event, event.dataTransfer));
  }

  #take(event, data) {
    if (!data?.files.length) return;
    event.preventDefault();
    this.attach([...data.files]);
  }

  #key(event) {
    // An input method takes Enter to accept its suggestion; Safari says so only by the key code.
    if (event.isComposing || event.keyCode === 229) return;
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key === "Enter" && !event.shiftKey && !touch) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "ArrowUp" && !this.box.value && this.hooks.editLast()) {
      event.preventDefault();
    }
  }

  submit() {
    const text = this.box.value.trim();
    if (state.running || (!text && !this.#files.length)) return;
    const files = this.#files;
    this.#files = [];
    this.box.value = "";
    this.#fit();
    this.#showFiles();
    this.hooks.send(text, files);
    this.box.focus();
  }

  fill(text) {
    this.box.value = text;
    this.#fit();
    focusLater(this.box);
  }

  #fit() {
    this.box.style.setProperty("height", "auto");
    this.box.style.setProperty("height", `${Math.min(this.box.scrollHeight, innerHeight * 0.4)}px`);
  }

  addImage(file) {
    this.#files.push(file);
    this.#showFiles();
    focusLater(this.box);
  }

  async attach(files) {
    const takesImages = state.tools.some((tool) => Object.values(tool.parameters?.properties ?? {}).some((each) => each.format === "image"));
    for (const file of files) {
      if (file.type.startsWith("image/") && !takesImages) toast(t("attachNoImages", { name: file.name }));
      else this.#files.push(...(await read(file)));
    }
    this.#showFiles();
  }

  #showFiles() {
    $("files").replaceChildren(...this.#files.map((file) => {
      const label = t("detach", { name: file.name });
      const remove = el("button", { type: "button", class: "icon-button", "aria-label": label, title: label }, icon("close"));
      remove.addEventListener("click", () => {
        this.#files = this.#files.filter((each) => each !== file);
        this.#showFiles();
        this.box.focus();
      });
      return el("span", { class: "file" }, fileChip(file), remove);
    }));
  }
}

async function read(file) {
  const { name } = file;
  if (file.type.startsWith("image/") && file.size <= MAX_IMAGE) {
    const image = await dataUrl(file);
    if (picture(image)) return [{ name, text: "", image }];
  } else if (file.size <= MAX_TEXT) {
    try {
      return [{ name, text: new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()) }];
    } catch {
      // Not a text: told below, as what is too large.
    }
  }
  toast(t("attachFailed", { name }));
  return [];
}

function dataUrl(file) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => resolve(null);
    reader.readAsDataURL(file);
  });
}
