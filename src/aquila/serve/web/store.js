// Conversations in the browser's own database. Without one (some private windows) nothing is kept, and the page says so.
//
//   conversations: {id, title, created, updated, system, chosen}     messages: {conversation, id, parent, role, ...}

import { identifier } from "./state.js";
import { problems } from "./tree.js";

const FORMAT = "aquila-conversations";

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
}

export class Store {
  #db = null;

  // Whether conversations are kept.
  get keeps() {
    return this.#db !== null;
  }

  async open(name = "aquila") {
    try {
      const request = indexedDB.open(name, 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("conversations", { keyPath: "id" });
        const messages = request.result.createObjectStore("messages", { keyPath: ["conversation", "id"] });
        messages.createIndex("conversation", "conversation");
      };
      this.#db = await result(request);
      this.#db.onversionchange = () => this.#db.close();
    } catch {
      this.#db = null;
    }
    return this;
  }

  #begin(mode, ...names) {
    const transaction = this.#db.transaction(names, mode);
    return [transaction, ...names.map((each) => transaction.objectStore(each))];
  }

  // Newest first.
  async list() {
    if (!this.#db) return [];
    const [, conversations] = this.#begin("readonly", "conversations");
    return (await result(conversations.getAll())).sort((a, b) => b.updated - a.updated);
  }

  async load(id) {
    if (!this.#db) return null;
    const [, conversations, messages] = this.#begin("readonly", "conversations", "messages");
    const [conversation, nodes] = await Promise.all([
      result(conversations.get(id)), result(messages.index("conversation").getAll(id)),
    ]);
    return conversation && { conversation, nodes: nodes.sort((a, b) => a.order - b.order).map(stripped) };
  }

  async save(conversation, nodes = []) {
    if (!this.#db) return;
    const [transaction, conversations, messages] = this.#begin("readwrite", "conversations", "messages");
    conversations.put(conversation);
    for (const node of nodes) messages.put({ ...node, conversation: conversation.id });
    await finished(transaction);
  }

  async removeNodes(id, nodeIds) {
    if (!this.#db) return;
    const [transaction, messages] = this.#begin("readwrite", "messages");
    for (const each of nodeIds) messages.delete([id, each]);
    await finished(transaction);
  }

  async remove(id) {
    if (!this.#db) return;
    const [transaction, conversations, messages] = this.#begin("readwrite", "conversations", "messages");
    conversations.delete(id);
    messages.delete(IDBKeyRange.bound([id], [id, []]));
    await finished(transaction);
  }

  // Conversation id -> a piece of the message where the words were found.
  async search(query, signal) {
    const found = new Map();
    if (!this.#db) return found;
    const wanted = query.toLowerCase();
    const [, messages] = this.#begin("readonly", "messages");
    await new Promise((resolve, reject) => {
      const request = messages.openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || signal.aborted) return resolve();
        const { conversation, content } = cursor.value;
        const at = content.toLowerCase().indexOf(wanted);
        if (at >= 0 && !found.has(conversation)) {
          found.set(conversation, content.slice(Math.max(0, at - 20), at + 60).replace(/\s+/g, " "));
        }
        return cursor.continue();
      };
    });
    return found;
  }

  async export(ids = null) {
    const wanted = ids ?? (await this.list()).map((each) => each.id);
    const conversations = [];
    for (const id of wanted) {
      const { conversation, nodes } = await this.load(id);
      conversations.push({ ...conversation, messages: nodes });
    }
    return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
  }

  // Adds what `export` gave; a conversation that is here already comes as a second one. Gives the number; an Error
  // says what is wrong with the file, and then nothing was added.
  async import(text) {
    const entries = checked(text);
    const known = new Set((await this.list()).map((each) => each.id));
    for (const { messages, ...entry } of entries) {
      const id = known.has(entry.id) ? identifier() : entry.id;
      known.add(id);
      await this.save({ ...entry, id }, messages.map((node, order) => ({ ...node, order })));
    }
    return entries.length;
  }
}

function stripped({ conversation, ...node }) {
  return node;
}

function checked(text) {
  const data = JSON.parse(text);
  if (data?.format !== FORMAT || !Array.isArray(data.conversations)) throw new Error(`format: must be "${FORMAT}"`);
  return data.conversations.map((entry, place) => {
    const where = `conversations[${place}]`;
    if (typeof entry?.title !== "string" || typeof entry.id !== "string") throw new Error(`${where}: needs a title and an id`);
    if (!Array.isArray(entry.messages)) throw new Error(`${where}.messages: must be a list`);
    const [wrong] = problems(entry.messages);
    if (wrong) throw new Error(`${where}.${wrong}`);
    return {
      id: entry.id, title: entry.title, created: number(entry.created), updated: number(entry.updated),
      system: typeof entry.system === "string" ? entry.system : "",
      chosen: typeof entry.chosen === "object" && entry.chosen ? entry.chosen : {},
      messages: entry.messages.map(tidy),
    };
  });
}

function number(value) {
  return Number.isFinite(value) ? value : Date.now();
}

// Of a message from elsewhere only what the page knows, each part of the kind it has to be.
function tidy(node) {
  const text = (value) => (typeof value === "string" ? value : "");
  const list = (value) => (Array.isArray(value) ? value : []);
  const object = (value) => (typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined);
  return {
    id: node.id, parent: node.parent, role: node.role, content: node.content, model: text(node.model), created: number(node.created),
    finish: text(node.finish), stats: object(node.stats), usage: object(node.usage), error: node.error ? { message: text(node.error.message) } : undefined,
    files: list(node.files).map((file) => ({ name: text(file?.name), text: text(file?.text), ...(picture(file?.image) ? { image: file.image } : {}) })),
    calls: list(node.calls).map((call) => ({
      id: text(call?.id), name: text(call?.name), arguments: text(call?.arguments),
      state: ["done", "failed", "declined"].includes(call?.state) ? call.state : "declined",
      result: object(call?.result) && {
        content: text(call.result.content), error: object(call.result.error) && { message: text(call.result.error.message), hint: text(call.result.error.hint) },
        images: list(call.result.images).filter((image) => picture(image?.src)).map((image) => ({ src: image.src, caption: text(image.caption) })),
      },
    })),
  };
}

export function picture(source) {
  return typeof source === "string" && /^data:image\/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/.test(source);
}
