// The tokens of an answer, coloured by how likely each was; one that is pointed at or has the focus
// shows what else could have stood there.
import * as api from "./api.js";
import { guarded } from "./chats.js";
import { state } from "./state.js";
import { html, useEffect, useState } from "./ui.js";
import { number, t } from "./words.js";

const STEPS = [0.9, 0.6, 0.3, 0.1];

const likely = (logprob) => Math.exp(logprob);
const percent = (logprob) => `${number(100 * likely(logprob), 1)} %`;
const step = (logprob) => STEPS.filter((limit) => likely(logprob) < limit).length;

function shown(text) {
  return text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥") || "∅";
}

export function Tokens({ message, tokens = null }) {
  const [found, setFound] = useState(tokens);
  const [at, setAt] = useState(null);
  const list = tokens ?? found;
  useEffect(() => {
    if (tokens) return;
    const path = `/conversations/${state.conversation.id}/messages/${message.id}/tokens`;
    guarded(async () => setFound((await api.get(path)).tokens));
  }, [message?.id]);
  if (!list) return html`<p class="waiting">${t("waiting")}</p>`;
  const move = (event) => {
    const to = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!to || event.altKey) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(list.length - 1, (at ?? -1) + to));
    event.currentTarget.children[next]?.focus();
  };
  const point = (event) => {
    const place = event.target.dataset?.place;
    if (place !== undefined) setAt(Number(place));
  };
  return html`
    <div class="tokens" role="group" aria-label=${t("probabilities")} onMouseOver=${point}
      onFocusIn=${point} onKeyDown=${move}>
      ${list.map(([text, logprob], place) => html`
        <span key=${place} class=${`token p${step(logprob)} ${place === at ? "chosen" : ""}`}
          role="button" data-place=${place} tabindex=${place === (at ?? 0) ? 0 : -1}
          aria-label=${`${shown(text)} ${percent(logprob)}`}>${text}</span>`)}
    </div>
    ${at !== null && list[at] && html`<${Alternatives} token=${list[at]} />`}
    <${Legend} />`;
}

function Alternatives({ token: [text, logprob, top] }) {
  const rows = top.some(([other]) => other === text) ? top : [[text, logprob], ...top];
  return html`<table class="alternatives" aria-live="off">
    <caption>${t("alternatives", { token: shown(text) })}</caption>
    <tbody>${rows.map(([other, value], place) => html`
      <tr key=${place} class=${other === text ? "chosen" : ""}>
        <th scope="row">${shown(other)}</th><td>${percent(value)}</td>
        <td class="bar-cell"><meter min="0" max="1" value=${likely(value)}
          aria-label=${percent(value)} /></td></tr>`)}</tbody></table>`;
}

const Legend = () => html`<p class="legend">${t("likely")}
  ${[0, 1, 2, 3, 4].map((place) => html`<span class=${`token p${place}`} aria-hidden="true">
    ${place < 4 ? `≥ ${100 * STEPS[place]} %` : `< ${100 * STEPS[3]} %`}</span>`)}</p>`;
