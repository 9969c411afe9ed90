// A call of a tool: what the model asks for, how far it is, what came of it. Pictures can be kept, enlarged and edited.

import { $, copyText, el, icon, iconButton, textButton } from "./dom.js";
import { t } from "./i18n.js";
import { renderMarkdown } from "./render.js";
import { picture } from "./store.js";
import { state } from "./state.js";

const STATES = {
  written: "stateWritten", confirm: "stateConfirm", running: "stateRunning", done: "stateDone", failed: "stateFailed", declined: "stateDeclined",
};

export function toolCard(call, node, place, actions) {
  const card = el("section", { class: `tool-card ${call.state}`, "aria-label": t("toolCall", { name: call.name }) },
    el("header", {}, icon("tool"), el("code", {}, call.name), el("span", { class: "tool-state" }, t(STATES[call.state] ?? "stateWritten"))));
  if (call.arguments && call.arguments !== "{}") card.append(argumentList(call));
  if (call.state === "confirm") card.append(question(call, node, place, actions));
  if (call.state === "done" || call.state === "failed") card.append(...resultParts(call, actions));
  return card;
}

function argumentList(call) {
  const parsed = parseArguments(call.arguments);
  if (!parsed) return el("pre", { class: "arguments", tabindex: "0", role: "region", "aria-label": t("arguments") }, call.arguments);
  return el("dl", { class: "arguments" }, Object.entries(parsed).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, shown(value))]));
}

export function parseArguments(text) {
  try {
    const value = JSON.parse(text || "{}");
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

function shown(value) {
  if (typeof value === "string") return picture(value) ? el("img", { class: "upload", src: value, alt: "" }) : value;
  if (Array.isArray(value)) return el("ol", {}, value.map((each) => el("li", {}, typeof each === "string" ? each : JSON.stringify(each))));
  return JSON.stringify(value);
}

function question(call, node, place, actions) {
  const tool = state.tools.find((each) => each.name === call.name);
  const permissions = (tool?.permissions ?? []).map((each) => t(each)).join(", ");
  return el("div", { class: "question" }, el("p", {}, t("confirmRun", { permissions })), el("div", { class: "dialog-buttons" },
    el("button", { type: "button", class: "plain", onclick: () => actions.declineCall(node, place) }, t("decline")),
    el("button", { type: "button", class: "solid", onclick: () => actions.runCall(node, place) }, t("run"))));
}

function resultParts(call, actions) {
  const { result = {} } = call;
  if (call.state === "failed") {
    const { message, hint } = result.error ?? {};
    return [el("div", { class: "error-card" }, renderMarkdown(message ?? ""), hint && hintLine(hint))];
  }
  const images = (result.images ?? []).filter((each) => picture(each.src));
  const parts = [];
  if (images.length > 1) parts.push(filmStrip(images, call, actions));
  else if (images.length) parts.push(figure(images[0], call, 0, actions));
  if (result.content && !images.length) parts.push(el("pre", { class: "result", tabindex: "0", role: "region", "aria-label": t("result") }, result.content));
  return parts;
}

function hintLine(hint) {
  const copy = iconButton("copy", t("copy"), () => copyText(hint, copy, t("copied")));
  return el("div", { class: "hint-line" }, el("code", {}, hint), copy);
}

function filmStrip(images, call, actions) {
  return el("ol", { class: "film", "aria-label": t("steps"), tabindex: "0" }, images.map((image, place) => el("li", {}, figure(image, call, place + 1, actions))));
}

function figure(image, call, step, actions) {
  const caption = image.caption ?? "";
  const alt = caption || t("resultImage", { name: call.name });
  const ending = /^data:image\/(\w+)/.exec(image.src)[1].replace("jpeg", "jpg");
  const name = `${call.name}${step ? `-${step}` : ""}.${ending}`;
  return el("figure", { class: "picture" },
    el("button", { type: "button", class: "picture-button", "aria-label": `${t("enlarge")}: ${alt}`, onclick: () => enlarge(image.src, alt) }, el("img", { src: image.src, alt: "" })),
    el("figcaption", {}, step ? el("b", {}, t("step", { place: step })) : null, el("span", {}, step ? caption.replace(/^\d+: /, "") : caption)),
    el("div", { class: "picture-tools" },
      el("a", { class: "text-button", href: image.src, download: name }, icon("download"), el("span", {}, t("download"))),
      textButton("edit", t("editImage"), () => actions.editImage({ name, image: image.src }))));
}

function enlarge(source, alt) {
  const dialog = $("dialog");
  dialog.setAttribute("aria-label", alt);
  dialog.removeAttribute("aria-labelledby");
  dialog.replaceChildren(el("form", { method: "dialog", class: "large" }, el("img", { src: source, alt }), el("button", { class: "plain" }, t("close"))));
  dialog.showModal();
}
