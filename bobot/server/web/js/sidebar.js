// The conversations: new, search, open, rename, remove; and the ways to the rest of the page.
import { newChat, openChat, removeChat, search, guarded, saveExport } from "./chats.js";
import { Icon } from "./icons.js";
import { set, useStore } from "./state.js";
import { html, useRef, useState } from "./ui.js";
import { t } from "./words.js";

const DAY = 86400;

export function Sidebar() {
  const conversations = useStore((s) => s.conversations);
  const hits = useStore((s) => s.hits);
  const text = useStore((s) => s.search);
  const view = useStore((s) => s.view);
  const waiting = useRef(0);
  const type = (event) => {
    const value = event.target.value;
    clearTimeout(waiting.current);
    waiting.current = setTimeout(() => search(value), 120);
  };
  const keys = (event) => event.key === "Escape" && set({ isSidebarOpen: false });
  return html`
    <nav class="sidebar" aria-label=${t("conversations")} onKeyDown=${keys}>
      <div class="brand"><span class="mark" aria-hidden="true"></span><strong>bobot</strong>
        <button class="plain only-phone" aria-label=${t("close")}
          onClick=${() => set({ isSidebarOpen: false })}><${Icon} name="close" /></button></div>
      <button class="wide primary" onClick=${newChat}><${Icon} name="pen" />${t("new_chat")}</button>
      <a class=${`wide ${view === "arena" ? "chosen" : ""}`} href="#arena">
        <${Icon} name="arena" />${t("arena")}</a>
      <label class="search"><${Icon} name="search" />
        <input id="search" type="search" value=${text} placeholder=${t("search")}
          aria-label=${t("search")} onInput=${type} /></label>
      <div class="scrolls" tabindex="-1">
        ${hits === null ? html`<${Groups} conversations=${conversations} />`
          : html`<${Hits} hits=${hits} />`}
      </div>
      <div class="foot">
        <button class="wide" onClick=${() => set({ dialog: { name: "menu" } })}>
          <${Icon} name="globe" />${t("preferences")}</button>
        <button class="plain" aria-label=${t("help")} onClick=${() => set({ dialog: { name: "help" } })}>
          <${Icon} name="help" /></button>
      </div>
    </nav>`;
}

function Groups({ conversations }) {
  if (!conversations.length) return html`<p class="hint empty">${t("no_conversations")}</p>`;
  const now = Date.now() / 1000;
  const groups = [["today", 1], ["this_week", 7], ["this_month", 30], ["older", Infinity]];
  let rest = conversations;
  return groups.map(([name, days]) => {
    const found = rest.filter((one) => now - one.updated < days * DAY);
    rest = rest.filter((one) => now - one.updated >= days * DAY);
    return found.length > 0 && html`
      <section key=${name} aria-label=${t(name)}><h2>${t(name)}</h2>
        <ul>${found.map((one) => html`<${Row} key=${one.id} conversation=${one} />`)}</ul>
      </section>`;
  });
}

function Row({ conversation }) {
  const isOpen = useStore((s) => s.conversation?.id === conversation.id && s.view === "chat");
  const [isSure, setSure] = useState(false);
  const title = conversation.title || t("untitled");
  return html`
    <li class=${`row ${isOpen ? "chosen" : ""}`}>
      <a href=${`#c/${conversation.id}`} aria-current=${isOpen ? "page" : undefined} title=${title}>
        ${conversation.is_private && html`<${Icon} name="lock" />`}
        ${!conversation.is_kept && html`<span class="dot" title=${t("not_kept")} />`}${title}</a>
      <span class="tools">
        <button class="plain" aria-label=${t("rename_it", { title })}
          onClick=${() => set({ dialog: { name: "rename", conversation } })}>
          <${Icon} name="edit" /></button>
        <button class="plain" aria-label=${t("export_it", { title })}
          onClick=${() => saveExport(conversation.id)}><${Icon} name="down_file" /></button>
        ${isSure
          ? html`<button class="danger" onBlur=${() => setSure(false)}
              onClick=${() => removeChat(conversation.id)}>${t("sure")}</button>`
          : html`<button class="plain" aria-label=${t("remove_it", { title })}
              onClick=${() => setSure(true)}><${Icon} name="trash" /></button>`}
      </span>
    </li>`;
}

function Hits({ hits }) {
  if (!hits.length) return html`<p class="hint empty">${t("nothing_found")}</p>`;
  return html`<ul aria-label=${t("found")}>${hits.map((hit) => html`
    <li class="row hit" key=${hit.id}>
      <a href=${`#c/${hit.id}`} onClick=${(event) => open(event, hit)}>
        <strong>${hit.title || t("untitled")}</strong>
        <span>${hit.snippet.map((piece) => (piece.is_hit ? html`<mark>${piece.text}</mark>`
          : piece.text))}</span></a>
    </li>`)}</ul>`;
}

function open(event, hit) {
  event.preventDefault();
  guarded(() => openChat(hit.id, hit.message));
}
