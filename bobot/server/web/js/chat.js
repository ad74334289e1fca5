// One conversation: its head, its messages, the question box, and the panel of settings.
import { Composer } from "./composer.js";
import { Icon } from "./icons.js";
import { Message } from "./message.js";
import { Pill } from "./models.js";
import { Panel } from "./panel.js";
import { change, setPrivate } from "./chats.js";
import { ask } from "./answers.js";
import { later } from "./slices.js";
import { set, state, useStore } from "./state.js";
import { branchOf, siblingsOf } from "./tree.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./ui.js";
import { t } from "./words.js";

const AT_ONCE = 2; // messages at the end that are drawn without waiting
const SHARE = 20; // messages that a long conversation grows by, from its end, when it is opened
const NEAR = 80; // pixels from the end within which the page keeps to the end

export function Chat() {
  const isPanelOpen = useStore((s) => s.isPanelOpen);
  const id = useStore((s) => s.conversation.id);
  return html`
    <main id="main" class="chat" tabindex="-1">
      <${Title} />
      <${Head} />
      <${Talk} key=${id} />
      <${Composer} />
    </main>
    ${isPanelOpen && html`<${Panel} />`}`;
}

function Title() {
  const title = useStore((s) => s.conversation.title) || t("new_chat");
  useEffect(() => {
    document.title = `${title} · bobot`;
  }, [title]);
  return html`<h1 class="unseen">${title}</h1>`;
}

function Head() {
  const conversation = useStore((s) => s.conversation);
  const models = useStore((s) => s.models);
  const showsTokens = useStore((s) => s.showsTokens);
  const isPanelOpen = useStore((s) => s.isPanelOpen);
  const model = models.find((one) => one.name === conversation.model);
  const choose = (name) => change({ model: name });
  const open = () =>
    set({ dialog: { name: "models", choose, chosen: state.conversation.model } });
  return html`
    <header class="bar">
      <button class="plain only-phone" aria-label=${t("conversations")}
        onClick=${() => set({ isSidebarOpen: true })}><${Icon} name="menu" /></button>
      <button id="model" class="model" aria-haspopup="dialog" onClick=${open}>
        <span class="unseen">${t("model")}: </span>
        <span class="name">${conversation.model ?? t("no_model")}</span>
        <${Pill} model=${model} /><${Icon} name="down" /></button>
      <span class="space"></span>
      ${!conversation.is_kept && html`<span class="tag">${t("not_kept")}</span>`}
      <button class="plain private" aria-pressed=${conversation.is_private}
        aria-label=${t("private")} title=${t("private_hint")}
        onClick=${() => setPrivate(!conversation.is_private)}>
        <${Icon} name=${conversation.is_private ? "lock" : "unlock"} />
        ${conversation.is_private && html`<span class="not-phone">${t("private")}</span>`}</button>
      <button class="plain" aria-pressed=${showsTokens} aria-label=${t("probabilities")}
        title=${t("probabilities")} onClick=${() => set({ showsTokens: !showsTokens })}>
        <${Icon} name="chart" /></button>
      <button class="plain" aria-pressed=${isPanelOpen} aria-label=${t("settings")}
        title=${t("settings")} onClick=${() => set({ isPanelOpen: !isPanelOpen })}>
        <${Icon} name="tune" /></button>
    </header>`;
}

function Talk() {
  const tree = useStore((s) => s.tree);
  const id = useStore((s) => s.conversation.id);
  const head = useStore((s) => s.conversation.head);
  const liveId = useStore((s) => s.liveId);
  const failure = useStore((s) => s.failure);
  const target = useStore((s) => s.target);
  const line = useMemo(() => branchOf(tree, head), [tree, head]);
  const [num, setNum] = useState(SHARE);
  useEffect(() => {
    if (num < line.length) later(() => setNum(num + SHARE));
  }, [num, line.length]);
  const shown = target === null ? line.slice(-num) : line;
  const box = useRef(null);
  const keeps = useKeepingToTheEnd(box, id, line.length);
  useEffect(() => {
    if (target === null) return;
    keeps.current = false;
    goTo(box.current, target.id);
  }, [target]);
  return html`
    <div class="talk" ref=${box} tabindex="0" role="region" aria-label=${t("messages")}>
      ${line.length === 0 && html`<${Welcome} />`}
      <div class="lines">
        ${shown.map((message, place) => html`
          <${Message} key=${message.id} message=${message} isLive=${message.id === liveId}
            isLast=${place >= shown.length - AT_ONCE} siblings=${siblingsOf(tree, message)} />`)}
        ${failure && html`<${Failure} text=${failure} last=${line.at(-1)} />`}
      </div>
    </div>`;
}

// To a message that was searched for. What lies between is only guessed at until it is drawn, so
// the place is looked for again once the first try has drawn what is there.
function goTo(box, id) {
  const element = box.querySelector(`[data-id="${id}"]`);
  element?.focus({ preventScroll: true });
  for (const wait of [0, 100, 400]) {
    setTimeout(() => element?.scrollIntoView({ block: "start" }), wait);
  }
}

function Failure({ text, last }) {
  return html`<div class="failure" role="alert"><p>${text}</p>
    ${last?.role === "user" && html`
      <button onClick=${() => ask({ parent: last.id })}>${t("try_again")}</button>`}
    <button class="plain" aria-label=${t("close")} onClick=${() => set({ failure: null })}>
      <${Icon} name="close" /></button></div>`;
}

function Welcome() {
  const personas = useStore((s) => s.personas);
  const chosen = useStore((s) => s.conversation.persona);
  const language = useStore((s) => s.language);
  return html`<div class="welcome">
    <h2>${t("welcome")}</h2>
    <p>${t("welcome_hint")}</p>
    <div class="personas" role="group" aria-label=${t("persona")}>
      ${personas.map((one) => html`
        <button key=${one.name} aria-pressed=${one.name === chosen}
          onClick=${() => change({ persona: one.name })}>
          <strong>${t(`persona_${one.name}`)}</strong>
          <span>${one.about[language] ?? one.about.en}</span></button>`)}
    </div>
  </div>`;
}

// As text grows, the end stays in sight while the reader has not scrolled away from it.
function useKeepingToTheEnd(box, id, length) {
  const keeps = useRef(true);
  useEffect(() => {
    const element = box.current;
    let before = element.scrollTop;
    const look = () => {
      const { scrollTop, scrollHeight, clientHeight } = element;
      const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR;
      if (isAtEnd) keeps.current = true;
      else if (scrollTop < before - 2) keeps.current = false;
      before = scrollTop;
    };
    const watcher = new ResizeObserver(() => {
      if (keeps.current) element.scrollTop = element.scrollHeight;
    });
    element.addEventListener("scroll", look, { passive: true });
    watcher.observe(element.querySelector(".lines"));
    return () => {
      element.removeEventListener("scroll", look);
      watcher.disconnect();
    };
  }, []);
  useLayoutEffect(() => {
    keeps.current = true;
    box.current.scrollTop = box.current.scrollHeight;
  }, [id, length]);
  return keeps;
}
