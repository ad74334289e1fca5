// Questions and answers: asked, edited, asked again, followed, stopped; and which branch is shown.
import * as api from "./api.js";
import { announce } from "./announce.js";
import { fail, guarded, loadList, openChat, stored } from "./chats.js";
import * as live from "./live.js";
import { set, state } from "./state.js";
import { leafOf, siblingsOf, withMessages } from "./tree.js";
import { t } from "./words.js";

const SPOKEN = 3000; // letters of an answer that are read out

const isOpen = (id) => state.conversation?.id === id;

const modelOf = (name) => state.models.find((model) => model.name === name);

// content null: another answer to the question `parent`. Says whether the question was taken.
export async function ask({ content = null, attachments = [], parent }) {
  set({ failure: null });
  let isAsked = false;
  try {
    const conversation = await stored();
    const isHosted = modelOf(conversation.model)?.is_hosted ?? false;
    const body = {
      parent, content, attachments, model: conversation.model, language: state.language,
      shows_tokens: state.showsTokens && !isHosted,
    };
    const path = `/conversations/${conversation.id}/answers`;
    await read(conversation.id, "POST", path, body, null, () => { isAsked = true; });
  } catch (error) {
    fail(error);
  }
  return isAsked;
}

export const regenerate = (answer) => ask({ parent: answer.parent });

export const edit = (question, content) =>
  ask({ content, parent: question.parent, attachments: question.extra.attachments ?? [] });

// Takes up an answer that was under way when the page was loaded.
export async function follow(id, message) {
  try {
    const path = `/conversations/${id}/answers/${message}`;
    await read(id, "GET", path, undefined, message);
  } catch (error) {
    if (error.status === 404) await guarded(() => openChat(id));
    else fail(error);
  }
}

async function read(id, method, path, body, message, told = () => {}) {
  let entry = null;
  let answer = message;
  const begin = (identity) => {
    answer = identity;
    entry = live.begin(identity);
    set({ liveId: identity });
    announce(t("answering"));
    told();
  };
  if (message !== null) begin(message);
  try {
    await api.stream(method, path, body, (event) => {
      if (event.type === "asked") begin(asked(id, event));
      else if (event.type === "done") done(id, event.message);
      else if (event.type === "dropped") dropped(id, answer);
      else if (event.type === "error") set({ failure: event.error.message });
      else if (entry) live.take(entry, event);
    });
  } catch (error) {
    if (entry) cutOff(id, answer, entry);
    throw error;
  } finally {
    live.end(answer);
    if (state.liveId === answer) set({ liveId: null });
  }
  await loadList();
}

// The server is gone in the middle of an answer: what came stays on the page.
function cutOff(id, answer, { text, reasoning }) {
  const message = state.tree.byId.get(answer);
  if (!isOpen(id) || !message) return;
  const cut = { ...message, content: text, reasoning, is_partial: true };
  set({ tree: withMessages(state.tree, [cut]) });
}

function asked(id, { question, answer }) {
  if (isOpen(id)) {
    const tree = withMessages(state.tree, [question, answer]);
    set({ tree, conversation: { ...state.conversation, head: answer.id } });
  }
  return answer.id;
}

function done(id, message) {
  if (!isOpen(id)) return;
  set({ tree: withMessages(state.tree, [message]), liveId: null });
  const reason = message.finish_reason === "stopped" ? t("stopped") : t("answer_is");
  announce(`${reason} ${message.content.slice(0, SPOKEN)}`);
}

function dropped(id, answer) {
  if (!isOpen(id)) return;
  const gone = state.tree.byId.get(answer);
  const rest = [...state.tree.byId.values()].filter((message) => message.id !== answer);
  const tree = withMessages({ byId: new Map() }, rest);
  set({ tree, liveId: null, conversation: { ...state.conversation, head: gone?.parent ?? null } });
}

export const stop = () => guarded(async () => {
  const { conversation, liveId } = state;
  if (liveId !== null) await api.post(`/conversations/${conversation.id}/answers/${liveId}/stop`);
});

// Shows the neighbour of a message that many places away, with all that followed it.
export function turn(message, step) {
  const siblings = siblingsOf(state.tree, message);
  const wanted = siblings[siblings.indexOf(message.id) + step];
  if (wanted === undefined) return;
  const head = leafOf(state.tree, wanted);
  set({ conversation: { ...state.conversation, head } });
  guarded(() => api.patch(`/conversations/${state.conversation.id}`, { head }));
  announce(t("branch_of", { n: siblings.indexOf(wanted) + 1, count: siblings.length }));
}
