// What the reader does with conversations as a whole: list, search, open, change, remove.
import { announce } from "./announce.js";
import * as api from "./api.js";
import { follow } from "./answers.js";
import { remember, remembered, set, state } from "./state.js";
import { leafOf, treeOf } from "./tree.js";
import { t } from "./words.js";

const RETRY = 1500; // milliseconds
const { NEEDS_KEY, UNREACHABLE } = api;
const EMPTY = { messages: [], byId: new Map(), children: new Map() };

export function fail(error) {
  if (error.name === "AbortError" || error.status === NEEDS_KEY) return; // a dialog asks for it
  set({ failure: error.message });
  if (error.status === UNREACHABLE) waitForServer();
}

let isWaiting = false;

// Until the server answers again; then the page shows what is stored there.
async function waitForServer() {
  if (isWaiting) return;
  isWaiting = true;
  try {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, RETRY));
      try {
        await loadList();
        set({ failure: null });
        if (state.view === "chat" && state.conversation?.id) await openChat(state.conversation.id);
        announce(t("is_back"));
        return;
      } catch (error) {
        if (error.status !== UNREACHABLE) throw error;
      }
    }
  } catch (error) {
    set({ failure: error.message });
  } finally {
    isWaiting = false;
  }
}

export async function guarded(work) {
  try {
    return await work();
  } catch (error) {
    fail(error);
    return undefined;
  }
}

export async function loadStart() {
  const [models, personas] = await Promise.all([api.get("/models"), api.get("/personas")]);
  set({ models: models.models, defaultModel: models.default, personas: personas.personas });
  await loadList();
}

export async function loadList() {
  const { conversations } = await api.get("/conversations");
  set({ conversations });
  const title = conversations.find((one) => one.id === state.conversation?.id)?.title;
  if (title !== undefined && title !== state.conversation.title) { // its first question named it
    set({ conversation: { ...state.conversation, title } });
  }
}

// The verdicts, one model after the other: each takes the server some seconds, once.
export async function loadFits() {
  for (const model of state.models) {
    if (model.is_hosted || model.fit) continue;
    const fit = await api.get(`/models/${encodeURIComponent(model.name)}/fit`)
      .catch(() => ({ verdict: null }));
    const models = state.models.map((one) => (one.name === model.name ? { ...one, fit } : one));
    set({ models });
  }
}

export function newChat() {
  const model = remembered("model", "") || state.defaultModel;
  const isServed = state.models.some((one) => one.name === model);
  const persona = remembered("persona", "plain");
  set({
    view: "chat",
    tree: { ...EMPTY },
    target: null,
    liveId: null,
    failure: null,
    isSidebarOpen: false,
    conversation: {
      id: null, title: "", head: null, system: null, settings: {}, reasoning_effort: null,
      model: isServed ? model : state.defaultModel, persona, is_private: false, is_kept: true,
    },
  });
  location.hash = "";
  document.getElementById("question")?.focus();
}

export async function openChat(id, message = null) {
  const found = await api.get(`/conversations/${id}`);
  const { messages, running, ...conversation } = found;
  const tree = treeOf(messages);
  if (message !== null && tree.byId.has(message)) conversation.head = leafOf(tree, message);
  const target = tree.byId.has(message) ? { id: message } : null;
  set({ view: "chat", conversation, tree, target, liveId: null, failure: null, isSidebarOpen: false });
  location.hash = `c/${id}`;
  if (running.length) follow(id, running[running.length - 1]);
  return conversation;
}

// Makes the conversation on the server at its first question.
export async function stored() {
  const conversation = state.conversation;
  if (conversation.id !== null) return conversation;
  const names = ["persona", "system", "settings", "reasoning_effort", "model", "is_private"];
  const fields = Object.fromEntries(names.map((name) => [name, conversation[name]]));
  const made = await api.post("/conversations", { ...fields, is_kept: conversation.is_kept });
  set({ conversation: made });
  history.replaceState(null, "", `#c/${made.id}`);
  return made;
}

export function change(fields) {
  const conversation = state.conversation;
  set({ conversation: { ...conversation, ...fields } });
  if (fields.model) remember("model", fields.model);
  if (fields.persona) remember("persona", fields.persona);
  if (conversation.id === null) return undefined;
  return guarded(async () => {
    const told = { ...fields };
    delete told.is_kept;
    await api.patch(`/conversations/${conversation.id}`, told);
    if ("title" in fields) await loadList();
  });
}

// A private conversation is answered by models of this machine only.
export function setPrivate(isPrivate) {
  const fields = { is_private: isPrivate };
  const isHosted = (name) => state.models.find((one) => one.name === name)?.is_hosted;
  const local = isHosted(state.defaultModel)
    ? state.models.find((one) => !one.is_hosted)?.name : state.defaultModel;
  if (isPrivate && local && isHosted(state.conversation.model)) fields.model = local;
  announce(t(isPrivate ? "is_private" : "not_private"));
  return change(fields);
}

// A conversation of its own that begins as this one up to a message.
export const branchOff = (message) => guarded(async () => {
  const { id, title } = state.conversation;
  const named = title && { title: t("branch_title", { title }).slice(0, 200) };
  const made = await api.post(`/conversations/${id}/branches`, { message: message.id, ...named });
  await openChat(made.id);
  await loadList();
  document.getElementById("question")?.focus();
  announce(t("branched_off"));
});

export const rename = (id, title) => guarded(async () => {
  await api.patch(`/conversations/${id}`, { title });
  if (state.conversation?.id === id) set({ conversation: { ...state.conversation, title } });
  await loadList();
});

export const removeChat = (id) => guarded(async () => {
  await api.remove(`/conversations/${id}`);
  if (state.conversation?.id === id) newChat();
  await loadList();
});

export async function search(text) {
  set({ search: text });
  if (!text.trim()) {
    set({ hits: null });
    return;
  }
  const found = await guarded(() => api.get(`/search?q=${encodeURIComponent(text)}`));
  if (found && state.search === text) set({ hits: found.hits });
}

export const saveExport = (id) => guarded(async () => {
  const blob = await api.file(id ? `/export?conversation=${id}` : "/export");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `bobot-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

export const bringIn = (file) => guarded(async () => {
  const report = await api.post("/import", await file.text());
  await loadList();
  const values = {
    added: report.num_added, known: report.num_known, skipped: report.skipped.length,
  };
  set({ failure: null, notice: t("imported", values) });
});
