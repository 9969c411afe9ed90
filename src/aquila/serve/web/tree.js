// A conversation is a tree: editing a question or asking again adds a sibling, and nothing is lost.
//
//   node = {id, parent, role: "user" | "assistant" | "tool", content, ...}; parent is null for the first messages.
//   tree.chosen[parent id or "root"] = id of the child that is shown

export const ROOT = "root";

export class Tree {
  constructor(nodes = [], chosen = {}) {
    this.nodes = new Map();
    this.children = new Map();
    this.chosen = { ...chosen };
    for (const node of nodes) this.#put(node);
  }

  #put(node) {
    const key = node.parent ?? ROOT;
    this.nodes.set(node.id, node);
    if (!this.children.has(key)) this.children.set(key, []);
    this.children.get(key).push(node.id);
  }

  // Adds a node and shows it.
  add(node) {
    if (this.nodes.has(node.id)) throw new Error(`node ${node.id} is there already`);
    if (node.parent !== null && !this.nodes.has(node.parent)) throw new Error(`node ${node.id} has no parent`);
    this.#put(node);
    this.chosen[node.parent ?? ROOT] = node.id;
    return node;
  }

  get(id) {
    return this.nodes.get(id);
  }

  // What is shown, from the first message to the last.
  path() {
    return this.#below(ROOT);
  }

  // From the first message to this one.
  pathTo(id) {
    const nodes = [];
    for (let node = this.get(id); node; node = this.get(node.parent)) nodes.unshift(node);
    return nodes;
  }

  #below(key) {
    const nodes = [];
    for (let next = this.#shown(key); next; next = this.#shown(next.id)) nodes.push(next);
    return nodes;
  }

  #shown(key) {
    const children = this.children.get(key);
    if (!children?.length) return undefined;
    const id = children.includes(this.chosen[key]) ? this.chosen[key] : children.at(-1);
    return this.get(id);
  }

  siblings(id) {
    return this.children.get(this.get(id).parent ?? ROOT);
  }

  // Shows the sibling `step` places further; gives its id, or null at the ends.
  turn(id, step) {
    const siblings = this.siblings(id);
    const other = siblings[siblings.indexOf(id) + step];
    if (other === undefined) return null;
    this.chosen[this.get(id).parent ?? ROOT] = other;
    return other;
  }

  // Takes a node and all below it out; gives the ids.
  remove(id) {
    const siblings = this.siblings(id);
    siblings.splice(siblings.indexOf(id), 1);
    const gone = [];
    const queue = [id];
    while (queue.length) {
      const next = queue.pop();
      gone.push(next);
      queue.push(...(this.children.get(next) ?? []));
    }
    for (const each of gone) {
      this.nodes.delete(each);
      this.children.delete(each);
      delete this.chosen[each];
    }
    return gone;
  }
}

// Nodes from elsewhere, checked: a list of what is wrong with them, empty when they make a tree.
export function problems(nodes) {
  const seen = new Set();
  const wrong = [];
  for (const [place, node] of nodes.entries()) {
    const where = `messages[${place}]`;
    if (typeof node?.id !== "string" || !node.id) wrong.push(`${where}.id: must be a text`);
    else if (seen.has(node.id)) wrong.push(`${where}.id: ${node.id} occurs twice`);
    if (node?.parent !== null && !seen.has(node?.parent)) wrong.push(`${where}.parent: must come before it, or be null`);
    if (!["user", "assistant", "tool"].includes(node?.role)) wrong.push(`${where}.role: must be user, assistant or tool`);
    if (typeof node?.content !== "string") wrong.push(`${where}.content: must be a text`);
    seen.add(node?.id);
  }
  return wrong;
}
