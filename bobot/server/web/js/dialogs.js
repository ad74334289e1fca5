// What lies over the page for a moment: help, preferences, models, names, a key.
import { bringIn, rename, saveExport } from "./chats.js";
import { Icon } from "./icons.js";
import { ModelList } from "./models.js";
import { remember, remembered, set, useStore } from "./state.js";
import { SHORTCUTS } from "./shortcuts.js";
import { THEMES, wear } from "./theme.js";
import { html, useEffect, useRef, useState } from "./ui.js";
import { LANGUAGES, speak, t } from "./words.js";

const close = () => set({ dialog: null });
const stay = (event) => event.preventDefault(); // of a dialog that must be answered

// The browser keeps the focus inside and gives it back.
export function Dialog({ title, children, onClose = close }) {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.focus?.();
  }, []);
  const beside = (event) => event.target === element.current && onClose();
  return html`
    <dialog ref=${element} aria-label=${title} onCancel=${onClose} onClick=${beside}>
      <div class="dialog">
        <header><h2>${title}</h2>
          ${onClose !== stay && html`
            <button class="plain" aria-label=${t("close")} onClick=${onClose}>
              <${Icon} name="close" /></button>`}</header>
        ${children}
      </div>
    </dialog>`;
}

export function HelpDialog() {
  return html`<${Dialog} title=${t("help")}>
    <dl class="keys">
      <div><dt><kbd>Enter</kbd></dt><dd>${t("send")}</dd></div>
      <div><dt><kbd>Shift Enter</kbd></dt><dd>${t("new_line")}</dd></div>
      ${SHORTCUTS.map((one) => html`<div key=${one.keys}>
        <dt><kbd>${one.keys}</kbd></dt><dd>${t(one.key)}</dd></div>`)}
    </dl></${Dialog}>`;
}

export function MenuDialog() {
  const language = useStore((s) => s.language);
  const theme = useStore((s) => s.theme);
  const notice = useStore((s) => s.notice);
  const input = useRef(null);
  return html`<${Dialog} title=${t("preferences")}>
    <div class="fields">
      <label>${t("language")}
        <select value=${language} onChange=${(event) => speak(event.target.value)}>
          ${Object.entries(LANGUAGES).map(([code, name]) => html`
            <option value=${code} lang=${code}>${name}</option>`)}
        </select></label>
      <fieldset class="choices"><legend>${t("theme")}</legend>
        ${THEMES.map((name) => html`<label key=${name}>
          <input type="radio" name="theme" checked=${theme === name} onChange=${() => wear(name)} />
          ${t(`theme_${name}`)}</label>`)}
      </fieldset>
      <div class="buttons">
        <button onClick=${() => saveExport()}><${Icon} name="down_file" />${t("export_all")}</button>
        <button onClick=${() => input.current.click()}><${Icon} name="up_file" />${t("import")}</button>
        <input class="unseen" type="file" accept=".json,application/json" ref=${input}
          aria-label=${t("import")} tabindex="-1"
          onChange=${(event) => event.target.files[0] && bringIn(event.target.files[0])} />
      </div>
      <p class="hint">${t("import_hint")}</p>
      ${notice && html`<p role="status">${notice}</p>`}
    </div></${Dialog}>`;
}

export function ModelDialog({ choose, chosen }) {
  const pick = (name) => {
    choose(name);
    close();
  };
  return html`<${Dialog} title=${t("choose_model")}>
    <${ModelList} choose=${pick} chosen=${chosen} /></${Dialog}>`;
}

export function RenameDialog({ conversation }) {
  const [title, setTitle] = useState(conversation.title);
  const submit = (event) => {
    event.preventDefault();
    rename(conversation.id, title.trim().slice(0, 200));
    close();
  };
  return html`<${Dialog} title=${t("rename")}>
    <form class="fields" onSubmit=${submit}>
      <label>${t("title")}<input autofocus value=${title} maxlength="200"
        onInput=${(event) => setTitle(event.target.value)} /></label>
      <button class="primary">${t("save")}</button>
    </form></${Dialog}>`;
}

export function KeyDialog({ start }) {
  const [key, setKey] = useState("");
  const [wasRefused] = useState(() => remembered("key", "") !== "");
  const submit = (event) => {
    event.preventDefault();
    remember("key", key.trim());
    set({ needsKey: false, failure: null });
    start();
  };
  return html`<${Dialog} title=${t("key_title")} onClose=${stay}>
    <form class="fields" onSubmit=${submit}>
      <label>${t("key")}<input type="password" autofocus required autocomplete="current-password" value=${key}
        onInput=${(event) => setKey(event.target.value)} /></label>
      ${wasRefused && html`<p class="refused" role="alert">${t("key_refused")}</p>`}
      <p class="hint">${t("key_hint")}</p>
      <button class="primary">${t("go")}</button>
    </form></${Dialog}>`;
}
