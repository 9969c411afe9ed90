// The page: brings its parts together.

import { ask as askServer, onKeyNeeded, OfflineError } from "./api.js";
import { Chat, mend } from "./chat.js";
import { Composer } from "./composer.js";
import { $, ask, el, fill, focusLater, icon, textButton, toast } from "./dom.js";
import { setLanguage, t } from "./i18n.js";
import { renderPanel, showPanel } from "./panel.js";
import { Playground } from "./playground.js";
import { keep, preferences } from "./preferences.js";
import { Sidebar } from "./sidebar.js";
import { model, newConversation, state } from "./state.js";
import { Store } from "./store.js";
import { Tree } from "./tree.js";

const RETRY_SECONDS = 3;
const narrow = matchMedia("(max-width: 820px)");

const store = await new Store().open();
const chat = new Chat(store, { saved: () => sidebar.show(), offline: () => watchServer(), editImage: (file) => composer.addImage(file) });
const sidebar = new Sidebar(store, { open: openConversation, removed: removedConversation });
const composer = new Composer({ send: (text, files) => chat.send(text, files), stop: () => chat.stop(), editLast: () => chat.editLast() });
const playground = new Playground(() => watchServer());

// ---- conversations

async function openConversation(id) {
  chat.leave();
  const loaded = await store.load(id);
  if (!loaded) return;
  state.conversation = loaded.conversation;
  state.tree = new Tree(mend(loaded.nodes), loaded.conversation.chosen);
  setMode("chat");
  showConversation();
}

function startConversation() {
  chat.leave();
  state.conversation = newConversation(state.conversation.system);
  state.tree = new Tree();
  setMode("chat");
  showConversation();
}

// What is still being written to it is not kept.
function removedConversation() {
  state.conversation.removed = true;
  startConversation();
}

function showConversation() {
  chat.show();
  sidebar.show();
  renderPanel(setSystem, openPanel);
  showSidebar(false);
  if (!narrow.matches) focusLater($("compose"));
}

let systemTimer = 0;

function setSystem(text) {
  state.conversation.system = text;
  clearTimeout(systemTimer);
  if (state.tree.nodes.size) systemTimer = setTimeout(() => store.save({ ...state.conversation }), 400);
}

// ---- the frame

function setMode(mode) {
  state.mode = mode;
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  $("chat").hidden = mode !== "chat";
  $("playground").hidden = mode === "chat";
  if (mode !== "chat") playground.enter();
}

function showSidebar(open) {
  if (narrow.matches) {
    document.body.classList.toggle("with-sidebar", open);
    $("shade").hidden = !open;
    $("sidebar").inert = !open;
    $("main").inert = open;
    if (open) focusLater($("search"));
  } else {
    $("sidebar").inert = $("main").inert = false;
    $("shade").hidden = true;
    document.body.classList.remove("with-sidebar");
  }
}

// Over the page on a small screen, beside it on a large one.
function openPanel(open) {
  showPanel(open);
  if (narrow.matches) {
    $("shade").hidden = !open;
    $("main").inert = open;
    if (!open) $("open-panel").focus();
  }
}

function toggleSidebar() {
  if (narrow.matches) showSidebar(!document.body.classList.contains("with-sidebar"));
  else $("sidebar").hidden = !$("sidebar").hidden;
}

function showWelcome() {
  const base = model()?.kind === "base" || model()?.kind === "code";
  const mark = el("img", { src: "/ui/icon.svg", alt: "", width: "48", height: "48" });
  fill($("welcome"), mark, el("h2", {}, t("welcome")), base && el("p", { class: "note" }, t("welcomeBase", { model: model().id })),
    el("div", { class: "tries" }, ["try1", "try2", "try3"].map((key) => el("button", { type: "button", class: "try", onclick: () => composer.fill(t(key)) }, t(key)))));
}

function showModels() {
  $("model").replaceChildren(...state.models.map((each) => el("option", { value: each.id, selected: each.id === model()?.id }, each.parent ? t("adapterOf", { name: each.id }) : each.id)));
  showWelcome();
  chat.showGauge();
}

function setWords() {
  setLanguage(preferences.language);
  showModels();
  sidebar.show();
  renderPanel(setSystem, openPanel);
  if (!state.running) chat.show();
  if (state.mode !== "chat") playground.show();
}

// ---- the server

function banner(text, retry = false) {
  const box = $("banner");
  box.hidden = !text;
  fill(box, Boolean(text) && el("span", {}, text), retry && textButton("retry", t("tryNow"), () => connect()));
}

let watching = 0;

// Tells that the server is away, and asks for it until it is back.
function watchServer(text = `${t("offline")} ${t("offlineRetrying")}`) {
  banner(text, true);
  clearTimeout(watching);
  watching = setTimeout(connect, RETRY_SECONDS * 1000);
}

async function connect() {
  const away = !$("banner").hidden;
  try {
    const { data } = await askServer("/v1/models");
    state.models = data;
    state.tools = (await askServer("/aquila/tools").catch(() => ({ tools: [] }))).tools;
  } catch (error) {
    if (error instanceof OfflineError) watchServer();
    else if (error.status === 503) watchServer(t("loading"));
    else banner(error.message, true);
    return;
  }
  clearTimeout(watching);
  banner("");
  showModels();
  if ($("panel").hidden) renderPanel(setSystem, openPanel);
  if (away) toast(t("online"));
}

onKeyNeeded(async (wrong) => {
  const given = await ask({
    title: t("keyTitle"), text: t(wrong ? "keyWrong" : "keyText"), confirm: t("connect"), cancel: t("cancel"),
    input: { type: "password", autocomplete: "off", spellcheck: "false" },
  });
  return given?.trim() || null;
});

addEventListener("offline", () => watchServer());
addEventListener("online", () => connect());

// ---- keys and buttons

function anywhere(event) {
  if (event.isComposing) return;
  const control = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" && !$("dialog").open) {
    if (document.body.classList.contains("with-sidebar")) showSidebar(false);
    else if (narrow.matches && !$("panel").hidden) openPanel(false);
    else if (state.running) state.running.abort();
  } else if (control && event.key.toLowerCase() === "k") {
    event.preventDefault();
    $("sidebar").hidden = false;
    showSidebar(true);
    focusLater($("search"));
  } else if (control && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    startConversation();
  }
}

for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => {
    state.running?.abort();
    setMode(button.dataset.mode);
  });
}
document.addEventListener("keydown", anywhere);
$("new-chat").addEventListener("click", startConversation);
$("open-sidebar").addEventListener("click", toggleSidebar);
$("close-sidebar").addEventListener("click", () => showSidebar(false));
$("shade").addEventListener("click", () => {
  if (!$("panel").hidden) openPanel(false);
  showSidebar(false);
});
$("open-panel").addEventListener("click", () => openPanel($("panel").hidden));
$("to-end").addEventListener("click", () => chat.toEnd());
$("model").addEventListener("change", () => {
  keep({ model: $("model").value });
  showModels();
  if (state.mode !== "chat") playground.show();
});
$("language").addEventListener("change", () => {
  keep({ language: $("language").value });
  setWords();
});
$("theme").addEventListener("change", () => {
  keep({ theme: $("theme").value });
  document.documentElement.dataset.theme = preferences.theme;
});
narrow.addEventListener("change", () => showSidebar(false));

$("language").value = preferences.language;
$("theme").value = preferences.theme;
setWords();
showConversation();
await connect();
document.documentElement.dataset.ready = "true";
