// Elements made by hand: every text becomes a text node, and nothing is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  plus: "M12 5v14M5 12h14",
  search: "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zM16 16l5 5",
  menu: "M4 7h16M4 12h16M4 17h16",
  sliders: "M4 7h9M17 7h3M15 4.500v5M4 17h3M11 17h9M9 14.500v5",
  close: "M6 6l12 12M18 6 6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  down: "M12 5v14M6 13l6 6 6-6",
  clip: "M20 11.500l-8.500 8.500a5 5 0 0 1-7-7L13 4.500a3.300 3.300 0 0 1 4.700 4.700l-8.400 8.400a1.700 1.700 0 0 1-2.400-2.400l7.600-7.600",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.500l4.500 4.500L19 7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13.500 6.500l4 4",
  retry: "M20 11a8 8 0 1 0-2.300 6.300M20 5v6h-6",
  forward: "M5 6l7 6-7 6zM13 6l7 6-7 6z",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
  tool: "M4 5h16v14H4zM8 10l3 2.500L8 15M13 15h3",
  question: "M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18zM9.500 9a2.500 2.500 0 1 1 3.600 2.300c-.700.400-1.100 1-1.100 1.700v.500M12 17v.010",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.500 9v.010",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// el("a", {class: "x", href: url, onclick: handler, disabled: true}, "text", child)
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...present(children));
  return element;
}

const present = (children) => children.flat().filter((child) => child !== null && child !== undefined && child !== false);

// Puts the children that are there in the place of what was.
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
}

export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", title: label, "aria-label": label, onclick, ...attributes }, icon(name));
}

export function textButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "text-button", onclick, ...attributes }, name && icon(name), el("span", {}, label));
}

export const $ = (id) => document.getElementById(id);

export function focusLater(element) {
  requestAnimationFrame(() => element?.focus({ preventScroll: true }));
}

// A line for screen readers.
export function announce(text) {
  $("live").textContent = text;
}

let toastTimer = 0;

export function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, 4000);
}

export async function copyText(text, button, doneLabel) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copyBySelection(text)) return false;
  }
  announce(doneLabel);
  const [old] = button.querySelectorAll(".icon");
  const done = icon("check");
  old.replaceWith(done);
  setTimeout(() => done.replaceWith(old), 1500);
  return true;
}

// Pages that come over plain HTTP from another machine have no clipboard API.
function copyBySelection(text) {
  const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

export function saveFile(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Asks in a dialog; gives true, or the text of `input` if there is one, or null.
export function ask({ title, text, confirm, cancel, input = null, danger = false }) {
  const dialog = $("dialog");
  const field = input && el("input", { id: "dialog-input", ...input });
  const accept = el("button", { class: danger ? "solid danger" : "solid", value: "yes" }, confirm);
  const form = el("form", { method: "dialog" },
    el("h2", { id: "dialog-title" }, title),
    text && el("p", {}, text),
    field && el("label", { for: "dialog-input", class: "hidden" }, title), field,
    el("div", { class: "dialog-buttons" }, el("button", { value: "no", class: "plain" }, cancel), accept));
  // The browser presses the first button on Enter, and that would be "cancel".
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing && event.target === field) {
      event.preventDefault();
      accept.click();
    }
  });
  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.removeAttribute("aria-label");
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.showModal();
  (field ?? accept).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? (field ? field.value : true) : null);
    }, { once: true });
  });
}
