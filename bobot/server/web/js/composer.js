// The question box: text, files as chips, send or stop.
import { ask, stop } from "./answers.js";
import { Icon } from "./icons.js";
import { set, state, useStore } from "./state.js";
import { html, useEffect, useRef, useState } from "./ui.js";
import { number, t } from "./words.js";

const MAX_FILE = 4 << 20; // bytes

export function Composer() {
  const [text, setText] = useState("");
  const [files, setFiles] = useState([]);
  const isLive = useStore((s) => s.liveId !== null);
  const id = useStore((s) => s.conversation.id);
  const area = useRef(null);
  const picker = useRef(null);
  useEffect(() => {
    area.current.style.height = "auto";
    area.current.style.height = `${Math.min(area.current.scrollHeight, 320)}px`;
  }, [text]);
  useEffect(() => {
    if (state.target === null) area.current.focus();
  }, [id]);
  const maySend = (text.trim() || files.length > 0) && !isLive;
  const send = async (event) => {
    event?.preventDefault();
    if (!maySend) return;
    setText("");
    setFiles([]);
    const isAsked = await ask({ content: text, attachments: files, parent: state.conversation.head });
    if (isAsked) return;
    setText((newer) => newer || text); // nothing that was typed is lost
    setFiles((newer) => (newer.length ? newer : files));
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  };
  const attach = async (list) => setFiles([...files, ...(await texts(list))]);
  const drop = (event) => {
    event.preventDefault();
    attach(event.dataTransfer.files);
  };
  return html`
    <form class="composer" onSubmit=${send} onDrop=${drop} onDragOver=${(e) => e.preventDefault()}>
      <${Chips} files=${files} drop=${(place) => setFiles(files.filter((_, i) => i !== place))} />
      <textarea id="question" ref=${area} rows="1" value=${text} placeholder=${t("ask")}
        aria-label=${t("ask")} onInput=${(event) => setText(event.target.value)}
        onKeyDown=${keys} />
      <div class="below">
        <button type="button" class="plain" aria-label=${t("attach")} title=${t("attach")}
          onClick=${() => picker.current.click()}><${Icon} name="clip" /></button>
        <input class="unseen" type="file" multiple ref=${picker} tabindex="-1"
          aria-label=${t("attach")} onChange=${(event) => attach(event.target.files)} />
        <span class="space"></span>
        ${isLive
          ? html`<button type="button" class="round" aria-label=${t("stop_answer")} onClick=${stop}>
              <${Icon} name="stop" /></button>`
          : html`<button class="round primary" aria-label=${t("send")} disabled=${!maySend}>
              <${Icon} name="send" /></button>`}
      </div>
    </form>`;
}

function Chips({ files, drop }) {
  if (!files.length) return null;
  return html`<ul class="chips" aria-label=${t("attached")}>${files.map((file, place) => html`
    <li class="chip" key=${place}><${Icon} name="clip" />${file.name}
      <small>${t("letters", { n: number(file.text.length) })}</small>
      <button type="button" class="plain" aria-label=${t("remove_it", { title: file.name })}
        onClick=${() => drop(place)}><${Icon} name="close" /></button></li>`)}</ul>`;
}

// Files as text; one that is none is refused by name.
async function texts(list) {
  const found = [];
  for (const file of list) {
    try {
      if (file.size > MAX_FILE) throw new Error("too large");
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new Error("binary");
      found.push({ name: file.name, text });
    } catch {
      set({ failure: t("not_text", { name: file.name }) });
    }
  }
  return found;
}
