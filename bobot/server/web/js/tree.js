// The tree of a conversation's messages: branches, and where one can turn. Nothing is drawn here.

export function treeOf(messages) {
  const tree = { byId: new Map(), children: new Map() };
  for (const message of messages) tree.byId.set(message.id, message);
  for (const message of messages) {
    const siblings = tree.children.get(message.parent) ?? [];
    tree.children.set(message.parent, [...siblings, message.id]);
  }
  return tree;
}

// A new tree with these messages added or replaced.
export const withMessages = (tree, messages) => {
  const all = new Map(tree.byId);
  for (const message of messages) all.set(message.id, message);
  return treeOf([...all.values()]);
};

// The messages from the first one to `head`.
export function branchOf(tree, head) {
  const line = [];
  for (let id = head; id !== null && tree.byId.has(id); id = tree.byId.get(id).parent) {
    line.push(tree.byId.get(id));
  }
  return line.reverse();
}

export const siblingsOf = (tree, message) => tree.children.get(message.parent) ?? [];

// The end of the branch that goes on from `id`, always along the latest child.
export function leafOf(tree, id) {
  for (;;) {
    const children = tree.children.get(id);
    if (!children?.length) return id;
    id = children[children.length - 1];
  }
}
