// Everything the page knows, in one object; a component is drawn again when what it selected changes.
import { useLayoutEffect, useReducer, useRef } from "./ui.js";

const listeners = new Set();

export const state = {
  conversations: [],
  search: "",
  hits: null, // null: no search
  conversation: null, // with id null: not stored yet
  tree: null,
  models: [],
  defaultModel: null,
  personas: [],
  view: "chat", // or "arena"
  dialog: null, // name of the open one
  isSidebarOpen: false, // on a phone
  isPanelOpen: false,
  showsTokens: false,
  failure: null,
  needsKey: false,
  language: "en",
  theme: "system",
  target: null, // {id} of the message to scroll to
  liveId: null, // the answer under way in the open conversation
};

export function set(patch) {
  Object.assign(state, patch);
  for (const listener of [...listeners]) listener();
}

export function useStore(select) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const selected = select(state);
  const last = useRef(selected);
  last.current = selected;
  const chooser = useRef(select);
  chooser.current = select;
  useLayoutEffect(() => {
    const look = () => {
      if (!Object.is(chooser.current(state), last.current)) draw();
    };
    listeners.add(look);
    look();
    return () => listeners.delete(look);
  }, []);
  return selected;
}

// Choices of this browser. Where storage is forbidden they last as long as the page.
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(`bobot.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`bobot.${name}`, value);
  } catch {
    /* it is forbidden: nothing is kept */
  }
}
