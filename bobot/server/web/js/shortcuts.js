// Keys for everything; the same table is shown under "?".
import { stop, turn } from "./answers.js";
import { branchOff, newChat } from "./chats.js";
import { set, state } from "./state.js";
import { branchOf, siblingsOf } from "./tree.js";

const focus = (id) => document.getElementById(id)?.focus();

export const SHORTCUTS = [
  { keys: "Ctrl K", key: "search", test: (e) => ctrl(e) && e.key === "k", act: toSearch },
  { keys: "Ctrl Shift O", key: "new_chat", test: (e) => shifted(e, "o"), act: newChat },
  { keys: "Ctrl Shift M", key: "choose_model", test: (e) => shifted(e, "m"), act: toModels },
  { keys: "Ctrl Shift S", key: "settings", test: (e) => shifted(e, "s"), act: panel },
  { keys: "Ctrl Shift P", key: "probabilities", test: (e) => shifted(e, "p"), act: probabilities },
  { keys: "Ctrl Shift A", key: "arena", test: (e) => shifted(e, "a"), act: toArena },
  { keys: "Alt ↑ / Alt ↓", key: "walk_messages", test: (e) => e.altKey && isUpDown(e), act: walk },
  { keys: "Alt ← / Alt →", key: "turn_branch", test: (e) => e.altKey && isLeftRight(e), act: side },
  { keys: "Ctrl Shift F", key: "branch_off", test: (e) => shifted(e, "f"), act: fork },
  { keys: "Esc", key: "stop_answer", test: (e) => e.key === "Escape" && mayStop(), act: stop },
  { keys: "/", key: "to_question", test: (e) => plain(e, "/"), act: () => focus("question") },
  { keys: "?", key: "help", test: (e) => plain(e, "?"), act: help },
];

const ctrl = (e) => (e.ctrlKey || e.metaKey) && !e.shiftKey && !e.altKey;
const shifted = (e, key) => (e.ctrlKey || e.metaKey) && e.shiftKey && e.key.toLowerCase() === key;
const isUpDown = (e) => e.key === "ArrowUp" || e.key === "ArrowDown";
const isLeftRight = (e) => e.key === "ArrowLeft" || e.key === "ArrowRight";
const isTyping = (e) => /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName);
const plain = (e, key) => e.key === key && !isTyping(e) && !e.ctrlKey && !e.metaKey && !e.altKey;
const mayStop = () => state.liveId !== null && !document.querySelector("dialog[open]");

function toSearch() {
  set({ isSidebarOpen: true });
  focus("search");
  if (document.activeElement?.id === "search") return;
  setTimeout(() => focus("search")); // on a phone it must be shown before
}

function toModels() {
  document.getElementById("model")?.click();
}

function panel() {
  set({ isPanelOpen: !state.isPanelOpen });
}

function probabilities() {
  set({ showsTokens: !state.showsTokens });
}

function toArena() {
  location.hash = "arena";
}

function help() {
  set({ dialog: { name: "help" } });
}

function walk(event) {
  const messages = [...document.querySelectorAll(".message")];
  const here = messages.indexOf(document.activeElement.closest(".message"));
  const step = event.key === "ArrowUp" ? -1 : 1;
  const next = here < 0 ? messages.length - 1 : here + step;
  messages[Math.max(0, Math.min(next, messages.length - 1))]?.focus();
}

const focusedId = () => Number(document.activeElement.closest(".message")?.dataset.id);

// Turns at the message that has the focus, else at the last one with more than one branch.
function side(event) {
  if (state.view !== "chat" || state.conversation === null || isTyping(event)) return;
  const line = branchOf(state.tree, state.conversation.head);
  const found = line.find((message) => message.id === focusedId()) ??
    line.findLast((message) => siblingsOf(state.tree, message).length > 1);
  if (found) turn(found, event.key === "ArrowLeft" ? -1 : 1);
}

// Branches off at the message that has the focus, else at the last one.
function fork() {
  if (state.view !== "chat" || !state.conversation?.id) return;
  const line = branchOf(state.tree, state.conversation.head);
  const found = line.find((message) => message.id === focusedId()) ?? line.at(-1);
  if (found && found.id !== state.liveId) branchOff(found);
}

export function listenToKeys() {
  const look = (event) => {
    const found = SHORTCUTS.find((shortcut) => shortcut.test(event));
    if (!found || event.isComposing) return;
    if (isTyping(event) && event.altKey && isLeftRight(event)) return; // moves by words
    event.preventDefault();
    found.act(event);
  };
  document.addEventListener("keydown", look);
  return () => document.removeEventListener("keydown", look);
}
