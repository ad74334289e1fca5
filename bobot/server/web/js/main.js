// The start of the page: language, theme, data, then the address decides what is shown.
import { App } from "./app.js";
import { fail, loadFits, loadStart, newChat, openChat } from "./chats.js";
import { set, state } from "./state.js";
import { firstTheme, wear } from "./theme.js";
import { html, render } from "./ui.js";
import { firstLanguage, speak } from "./words.js";

async function show() {
  const [kind, id] = location.hash.slice(1).split("/");
  if (kind === "arena") {
    set({ view: "arena", isSidebarOpen: false });
  } else if (kind === "c" && id) {
    if (state.conversation?.id === id) set({ view: "chat" });
    else await openChat(id);
  } else if (state.view !== "chat" || state.conversation?.id !== null) {
    newChat();
  }
}

export async function start() {
  try {
    await loadStart();
    await show();
    await loadFits();
  } catch (error) {
    if (state.conversation === null) newChat();
    fail(error);
  }
}

wear(firstTheme());
await speak(firstLanguage());
render(html`<${App} start=${start} />`, document.getElementById("app"));
window.addEventListener("hashchange", () => show().catch(fail));
await start();
