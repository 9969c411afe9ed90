// The chat: what is shown, what is asked, and the tools that are run in between.

import { ask, ApiError, OfflineError, stream } from "./api.js";
import { addChunk, statsOf, titleOf, toMessages } from "./conversation.js";
import { $, announce, el, focusLater } from "./dom.js";
import { number, t } from "./i18n.js";
import { MessageView } from "./message_view.js";
import { toolsInUse } from "./panel.js";
import { samplingFields } from "./preferences.js";
import { identifier, model, state } from "./state.js";
import { parseArguments } from "./tool_card.js";

const MAX_ROUNDS = 8; // answers to tool results in a row
const SAVE_EVERY = 1500; // milliseconds while an answer grows

export class Chat {
  #views = new Map();
  #atEnd = true;
  #lastTop = 0;
  #order = 0;

  // `hooks` = {saved(), offline(error), editImage(file)}
  constructor(store, hooks) {
    this.store = store;
    this.hooks = hooks;
    this.actions = {
      edit: (node) => this.edit(node),
      regenerate: (node) => this.regenerate(node),
      continue: (node) => this.continue(node),
      turn: (node, step) => this.turn(node, step),
      runCall: (node, place) => this.#runConfirmed(node, place),
      declineCall: (node, place) => this.#decline(node, place),
      editImage: (file) => hooks.editImage(file),
    };
    this.#followScrolling();
  }

  #followScrolling() {
    const scroller = $("scroller");
    scroller.addEventListener("scroll", () => {
      const rest = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
      if (rest < 40) this.#atEnd = true;
      else if (scroller.scrollTop < this.#lastTop - 2) this.#atEnd = false;
      this.#lastTop = scroller.scrollTop;
      $("to-end").hidden = rest < 300;
    }, { passive: true });
    new ResizeObserver(() => this.#atEnd && this.toEnd()).observe($("thread"));
    new ResizeObserver(() => this.#atEnd && this.toEnd()).observe(scroller);
  }

  toEnd() {
    this.#atEnd = true;
    $("scroller").scrollTop = $("scroller").scrollHeight;
  }

  // ---- showing

  show() {
    this.#views.clear();
    const path = state.tree.path();
    for (const node of path) this.#order = Math.max(this.#order, node.order + 1);
    $("thread").replaceChildren(...path.map((node) => this.#view(node).element));
    this.#showFrame();
    this.toEnd();
  }

  #view(node) {
    const view = new MessageView(node, state.tree, this.actions);
    this.#views.set(node.id, view);
    return view;
  }

  // Shows the path again from the place where it changed.
  #showFrom(place) {
    const path = state.tree.path();
    const thread = $("thread");
    while (thread.children.length > place) {
      this.#views.delete(thread.lastElementChild.dataset.id);
      thread.lastElementChild.remove();
    }
    thread.append(...path.slice(place).map((node) => this.#view(node).element));
    this.#showFrame();
  }

  #showFrame() {
    const path = state.tree.path();
    $("welcome").hidden = path.length > 0;
    document.body.classList.toggle("empty-chat", path.length === 0);
    this.showGauge();
  }

  showGauge() {
    const size = model()?.max_model_len;
    const used = state.tree.path().findLast((node) => node.stats?.total)?.stats.total;
    const gauge = $("gauge");
    gauge.hidden = !size || !used;
    if (gauge.hidden) return;
    const text = t("contextOf", { used: number(used), size: number(size) });
    const share = Math.min(1, used / size);
    const fill = el("i");
    fill.style.setProperty("width", `${(share * 100).toFixed(1)}%`);
    const attributes = { role: "meter", "aria-label": t("context"), "aria-valuemin": 0, "aria-valuemax": size, "aria-valuenow": used, "aria-valuetext": text, class: share > 0.85 ? "track nearly-full" : "track" };
    gauge.title = `${t("context")}: ${text}`;
    gauge.replaceChildren(el("span", attributes, fill), el("span", { "aria-hidden": "true" }, text));
  }

  // ---- asking

  async send(text, files = []) {
    const last = state.tree.path().at(-1);
    await this.#ask(last?.id ?? null, text, files);
  }

  async #ask(parent, content, files) {
    const node = this.#add({ parent, role: "user", content, files });
    if (!state.conversation.title) state.conversation.title = titleOf(content) || files[0]?.name || "…";
    await this.#save([node]);
    await this.answer(node.id);
  }

  #add(fields) {
    const node = { id: identifier(), created: Date.now(), order: this.#order++, ...fields };
    state.tree.add(node);
    this.#showFrom(state.tree.path().indexOf(node));
    return node;
  }

  edit(node) {
    if (state.running) return;
    this.#views.get(node.id)?.startEditing((text) => {
      if (text === null) focusLater($("compose"));
      else this.#ask(node.parent, text, node.files ?? []);
    });
  }

  editLast() {
    const node = state.tree.path().findLast((each) => each.role === "user");
    if (node) this.edit(node);
    return Boolean(node);
  }

  async regenerate(node) {
    if (state.running) return;
    const { parent } = node;
    if (node.error && !node.content && !node.calls?.length) {
      await this.store.removeNodes(state.conversation.id, state.tree.remove(node.id));
      this.#showFrom(state.tree.path().length);
    }
    await this.answer(parent);
  }

  turn(node, step) {
    if (state.running || !state.tree.turn(node.id, step)) return;
    this.#atEnd = false;
    const place = state.tree.pathTo(node.id).length - 1;
    this.#showFrom(place);
    this.#save();
    focusLater($("thread").children[place]?.querySelector(`.branches button:not([disabled])`));
  }

  async continue(node) {
    if (state.running) return;
    const messages = toMessages(state.tree.pathTo(node.id), state.conversation.system);
    const fields = { messages, continue_final_message: true, add_generation_prompt: false };
    await this.#whileRunning((home) => this.#generate(home, node, fields));
  }

  // Asks for an answer to the path up to `parent`, runs the tools it calls, and goes on with their results.
  async answer(parent) {
    await this.#whileRunning(async (home) => {
      for (let round = 0; round < MAX_ROUNDS && parent && !home.signal.aborted; round += 1) {
        const messages = toMessages(home.tree.pathTo(parent), home.conversation.system);
        const node = this.#add({ parent, role: "assistant", content: "", model: model()?.id ?? "" });
        const whole = await this.#generate(home, node, { messages });
        parent = whole && node.calls?.length && (await this.#runCalls(home, node)) ? node.id : null;
      }
    });
  }

  // One thing at a time. Work gets its home: another conversation may be shown before it ends.
  async #whileRunning(work) {
    const running = new AbortController();
    state.running = running;
    this.#showRunning();
    try {
      return await work({ conversation: state.conversation, tree: state.tree, signal: running.signal });
    } finally {
      if (state.running === running) state.running = null;
      this.#showRunning();
    }
  }

  // Lets the model write into `node`. Gives whether it came to its own end.
  async #generate(home, node, fields) {
    const view = this.#views.get(node.id);
    const times = { asked: performance.now(), first: null, end: 0 };
    this.#start(node, view);
    let saved = times.asked;
    try {
      await stream("/v1/chat/completions", { ...request(), ...fields }, home.signal, (chunk) => {
        addChunk(node, chunk);
        if (node.content || node.calls?.length) times.first ??= performance.now();
        view.grow();
        if (performance.now() - saved > SAVE_EVERY) {
          saved = performance.now();
          this.#save([node], home);
        }
      });
    } catch (error) {
      this.#failed(node, error);
    } finally {
      times.end = performance.now();
      if (node.usage) node.stats = statsOf(node.usage, times, node.timings);
      this.#finish(node, view);
    }
    await this.#save([node], home);
    return !node.error && node.finish !== "stopped";
  }

  #start(node, view) {
    delete node.error;
    delete node.usage;
    delete node.timings;
    node.finish = "";
    this.#atEnd = true;
    view.begin();
    announce(t("answering"));
  }

  #finish(node, view) {
    for (const call of node.calls ?? []) if (call.state === "written") call.state = node.finish === "tool_calls" ? "confirm" : "declined";
    view.end();
    this.showGauge();
    if (!node.error) announce(t(node.finish === "stopped" ? "stopped" : "answered"));
  }

  #failed(node, error) {
    if (error.name === "AbortError") {
      node.finish = "stopped";
    } else if (error instanceof OfflineError) {
      node.error = { message: t("offline") };
      this.hooks.offline();
    } else if (error instanceof ApiError) {
      node.error = { message: error.message };
    } else {
      throw error;
    }
  }

  stop() {
    state.running?.abort();
  }

  // Another conversation is opened: what is being written ends, and nothing waits for it.
  leave() {
    this.stop();
    state.running = null;
    this.#showRunning();
  }

  #showRunning() {
    const running = Boolean(state.running);
    $("send").hidden = running;
    $("stop").hidden = !running;
    document.body.classList.toggle("running", running);
  }

  // ---- tools

  // Runs what needs no consent. Gives whether every call is settled and the model should hear of it.
  async #runCalls(home, node) {
    for (const [place, call] of node.calls.entries()) {
      const tool = state.tools.find((each) => each.name === call.name);
      if (!tool) this.#settle(call, "failed", { error: { message: t("unknownTool") } });
      else if (!tool.permissions?.length) await this.#run(home, node, place, false);
    }
    this.#views.get(node.id)?.refresh();
    await this.#save([node], home);
    return this.#allSettled(node);
  }

  #allSettled(node) {
    const settled = node.calls.every((call) => ["done", "failed", "declined"].includes(call.state));
    // A picture speaks for itself, and an error is for the reader first.
    return settled && node.calls.some((call) => call.state === "done" && !call.result.images?.length);
  }

  #settle(call, to, result = undefined) {
    call.state = to;
    call.result = result;
  }

  async #run(home, node, place, confirmed) {
    const call = node.calls[place];
    const values = parseArguments(call.arguments);
    if (!values) {
      this.#settle(call, "failed", { error: { message: t("badArguments") } });
      return;
    }
    call.state = "running";
    this.#views.get(node.id)?.refresh();
    try {
      const images = newestImage(home.tree.pathTo(node.id));
      const result = await ask("/aquila/tools/run", { name: call.name, arguments: values, confirmed, images }, home.signal);
      this.#settle(call, result.ok ? "done" : "failed", result);
    } catch (error) {
      if (error.name === "AbortError") this.#settle(call, "declined");
      else this.#settle(call, "failed", { error: { message: error instanceof OfflineError ? t("offline") : error.message } });
    }
  }

  async #runConfirmed(node, place) {
    if (state.running) return;
    await this.#whileRunning((home) => this.#run(home, node, place, true));
    await this.#settled(node);
  }

  async #decline(node, place) {
    this.#settle(node.calls[place], "declined");
    await this.#settled(node);
  }

  async #settled(node) {
    this.#views.get(node.id)?.refresh();
    await this.#save([node]);
    if (this.#allSettled(node) && !state.tree.children.get(node.id)?.length) await this.answer(node.id);
  }

  async #save(nodes = [], { conversation, tree } = state) {
    if (conversation.removed) return;
    conversation.updated = Date.now();
    conversation.chosen = { ...tree.chosen };
    await this.store.save({ ...conversation }, nodes.map((node) => structuredClone(node)));
    this.hooks.saved();
  }
}

// The newest picture of a path: an upload, or what a tool made. A call that needs one and names none takes it.
function newestImage(path) {
  const found = path.flatMap((node) => [
    ...(node.files ?? []).map((file) => file.image),
    ...(node.calls ?? []).flatMap((call) => (call.result?.images ?? []).map((image) => image.src)),
  ]);
  return found.filter(Boolean).slice(-1);
}

function request() {
  const tools = toolsInUse().map(({ name, description, parameters }) => ({
    type: "function", function: { name, description: description?.en || description?.zh || "", parameters },
  }));
  return { model: model()?.id, ...samplingFields(), ...(tools.length ? { tools } : {}) };
}

// What was under way when the page was closed did not end.
export function mend(nodes) {
  for (const node of nodes) {
    for (const call of node.calls ?? []) {
      if (call.state === "written") call.state = "declined";
      else if (call.state === "running") Object.assign(call, { state: "failed", result: { error: { message: t("interrupted") } } });
    }
  }
  return nodes;
}
