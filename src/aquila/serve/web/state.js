// What the parts of the page share.

import { preferences } from "./preferences.js";
import { Tree } from "./tree.js";

export const state = {
  models: [],
  tools: [],
  mode: "chat",
  conversation: newConversation(),
  tree: new Tree(),
  running: null, // the AbortController of what is being generated
};

export function newConversation(system = "") {
  const now = Date.now();
  return { id: identifier(), title: "", created: now, updated: now, system, chosen: {} };
}

// crypto.randomUUID is missing on a page that comes over plain HTTP from another machine.
export function identifier() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The model that is asked: the one chosen last, if the server has it.
export function model() {
  return state.models.find((each) => each.id === preferences.model) ?? state.models[0] ?? null;
}
