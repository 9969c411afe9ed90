// The settings beside the conversation: system prompt, sampling with explanations, tools.

import { $, el, icon, iconButton, textButton } from "./dom.js";
import { language, t } from "./i18n.js";
import { defaults, keep, PARAMETERS, preferences } from "./preferences.js";
import { state } from "./state.js";

// `close` is how the page puts the panel away.
export function renderPanel(onSystem, close) {
  const panel = $("panel");
  const main = PARAMETERS.filter((each) => !each.more);
  const more = PARAMETERS.filter((each) => each.more);
  panel.replaceChildren(
    el("header", { class: "panel-head" }, el("h2", {}, t("settings")), iconButton("close", t("close"), () => close(false))),
    el("section", {}, el("label", { for: "system", class: "panel-title" }, t("system")), el("p", { class: "help" }, t("systemHelp")), systemField(onSystem)),
    el("section", {},
      el("div", { class: "panel-row" }, el("h3", { class: "panel-title" }, t("sampling")), textButton(null, t("defaults"), () => {
        keep({ sampling: defaults() });
        renderPanel(onSystem, close);
      })),
      main.map(parameter), seedField(),
      el("details", {}, el("summary", {}, t("more")), more.map(parameter), stopField())),
    el("section", {}, el("h3", { class: "panel-title" }, t("tools")), toolList()));
}

export function showPanel(open) {
  $("panel").hidden = !open;
  $("open-panel").setAttribute("aria-expanded", String(open));
  document.body.classList.toggle("with-panel", open);
  if (!open) $("open-panel").focus();
  else $("panel").querySelector("button").focus();
}

function systemField(onSystem) {
  const field = el("textarea", { id: "system", rows: "3" });
  field.value = state.conversation.system ?? "";
  field.addEventListener("input", () => onSystem(field.value));
  return field;
}

function set(name, value) {
  keep({ sampling: { ...preferences.sampling, [name]: value } });
}

function parameter({ name, min, max, step }) {
  const value = preferences.sampling[name];
  const box = el("input", { id: `p-${name}`, type: "number", min, step: "any", max: name === "max_tokens" ? null : max, inputmode: "decimal" });
  const slider = el("input", { type: "range", min, max, step, "aria-label": t(name), tabindex: "-1" });
  box.value = slider.value = value;
  slider.addEventListener("input", () => {
    box.value = slider.value;
    set(name, Number(slider.value));
  });
  box.addEventListener("change", () => {
    const given = box.value === "" || !Number.isFinite(box.valueAsNumber) ? PARAMETERS.find((each) => each.name === name).value : box.valueAsNumber;
    const kept = Math.max(min, name === "max_tokens" ? Math.round(given) : Math.min(max, given));
    box.value = slider.value = kept;
    set(name, name === "top_k" ? Math.round(kept) : kept);
  });
  return withHelp(name, el("label", { for: `p-${name}` }, t(name)), box, slider);
}

function withHelp(name, label, ...fields) {
  const help = el("p", { class: "help", id: `help-${name}`, hidden: true }, t(`${name}Help`));
  const button = el("button", { type: "button", class: "help-button", "aria-expanded": "false", "aria-controls": `help-${name}`, "aria-label": t("explain", { name: label.textContent }) }, icon("question"));
  button.addEventListener("click", () => {
    help.hidden = !help.hidden;
    button.setAttribute("aria-expanded", String(!help.hidden));
  });
  return el("div", { class: "parameter" }, el("div", { class: "parameter-head" }, label, button, fields[0]), fields.slice(1), help);
}

function seedField() {
  const field = el("input", { id: "p-seed", type: "number", min: 0, step: 1, placeholder: t("seedEmpty") });
  field.value = preferences.sampling.seed;
  field.addEventListener("change", () => {
    field.value = field.value === "" ? "" : Math.max(0, Math.round(field.valueAsNumber));
    set("seed", field.value);
  });
  return withHelp("seed", el("label", { for: "p-seed" }, t("seed")), field);
}

function stopField() {
  const field = el("textarea", { id: "p-stop", rows: "2", "aria-describedby": "help-stop" });
  field.value = preferences.sampling.stop;
  field.addEventListener("input", () => set("stop", field.value));
  return el("div", { class: "parameter" }, el("label", { for: "p-stop" }, t("stopTexts")), el("p", { class: "help", id: "help-stop" }, t("stopTextsHelp")), field);
}

function toolList() {
  if (!state.tools.length) return el("p", { class: "help" }, t("noTools"));
  return el("ul", { class: "tool-list" }, state.tools.map((tool) => {
    const box = el("input", { type: "checkbox", checked: !preferences.toolsOff.includes(tool.name) });
    box.addEventListener("change", () => {
      const off = preferences.toolsOff.filter((name) => name !== tool.name);
      keep({ toolsOff: box.checked ? off : [...off, tool.name] });
    });
    const badges = [...(tool.permissions ?? []).map((each) => t(each)), ...(tool.available === false ? [t("unavailable")] : [])];
    return el("li", {}, el("label", {}, box, el("span", {}, el("code", {}, tool.name), badges.map((badge) => el("span", { class: "badge" }, badge)),
      el("span", { class: "help" }, tool.description?.[language()] || tool.description?.en || tool.description?.zh || ""))));
  }));
}

export function toolsInUse() {
  return state.tools.filter((tool) => !preferences.toolsOff.includes(tool.name));
}
