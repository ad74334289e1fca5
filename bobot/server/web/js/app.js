// The whole page: the list of conversations, what is shown, and the dialogs over it.
import { listen } from "./announce.js";
import { Arena } from "./arena.js";
import { Chat } from "./chat.js";
import { HelpDialog, KeyDialog, MenuDialog, ModelDialog, RenameDialog } from "./dialogs.js";
import { listenToKeys } from "./shortcuts.js";
import { Sidebar } from "./sidebar.js";
import { set, useStore } from "./state.js";
import { html, useEffect, useRef } from "./ui.js";
import { t } from "./words.js";

export function App({ start }) {
  const view = useStore((s) => s.view);
  const isSidebarOpen = useStore((s) => s.isSidebarOpen);
  const isReady = useStore((s) => s.conversation !== null);
  const dialog = useStore((s) => s.dialog);
  const needsKey = useStore((s) => s.needsKey);
  useStore((s) => s.language);
  const region = useRef(null);
  useEffect(() => listen(region.current), []);
  useEffect(listenToKeys, []);
  const name = needsKey ? "key" : dialog?.name;
  return html`
    <a class="skip" href="#main" onClick=${skip}>${t("to_question")}</a>
    <div class=${`frame ${isSidebarOpen ? "with-sidebar" : ""}`}>
      <${Sidebar} />
      ${isSidebarOpen && html`<div class="veil" onClick=${() => set({ isSidebarOpen: false })} />`}
      ${isReady && (view === "arena" ? html`<${Arena} />` : html`<${Chat} />`)}
    </div>
    <div class="unseen" ref=${region} role="status" aria-live="polite"></div>
    ${name === "key" && html`<${KeyDialog} start=${start} />`}
    ${name === "help" && html`<${HelpDialog} />`}
    ${name === "menu" && html`<${MenuDialog} />`}
    ${name === "models" && html`<${ModelDialog} choose=${dialog.choose} chosen=${dialog.chosen} />`}
    ${name === "rename" && html`<${RenameDialog} conversation=${dialog.conversation} />`}`;
}

function skip(event) {
  event.preventDefault();
  (document.getElementById("question") ?? document.getElementById("main"))?.focus();
}
