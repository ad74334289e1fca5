// The tokens of an answer, coloured by how likely each was; one that is pointed at or has the focus
// shows what else could have stood there.
import * as api from "./api.js";
import { guarded } from "./chats.js";
import { state } from "./state.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "./ui.js";
import { number, t } from "./words.js";

const STEPS = [0.9, 0.6, 0.3, 0.1];
const GAP = 6; // pixels between a token and its alternatives

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
    if (event.key === "Escape" && at !== null) {
      event.stopPropagation();
      setAt(null);
    }
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
  const leave = () => setAt(null);
  return html`<div class="tokens-box">
    <div class="tokens" role="group" aria-label=${t("probabilities")} onMouseOver=${point}
      onFocusIn=${point} onKeyDown=${move} onMouseLeave=${leave} onFocusOut=${leave}>
      ${list.map(([text, logprob], place) => html`
        <span key=${place} class=${`token p${step(logprob)} ${place === at ? "chosen" : ""}`}
          role="button" data-place=${place} tabindex=${place === (at ?? 0) ? 0 : -1}
          aria-describedby=${place === at ? "alternatives" : undefined}
          aria-label=${`${shown(text)} ${percent(logprob)}`}>${text}</span>`)}
    </div>
    ${at !== null && list[at] && html`<${Alternatives} token=${list[at]} place=${at} />`}
    <${Legend} /></div>`;
}

// Below the token, or above it where the box ends; never wider than the text.
function besideToken(element, place) {
  const box = element.parentElement.getBoundingClientRect();
  const token = element.parentElement.querySelector(`[data-place="${place}"]`).getClientRects()[0];
  const { width, height } = element.getBoundingClientRect();
  const end = element.closest(".talk").getBoundingClientRect().bottom;
  const isAbove = token.bottom + height + GAP > end;
  const top = isAbove ? token.top - height - GAP : token.bottom + GAP;
  element.style.left = `${Math.max(0, Math.min(token.left, box.right - width) - box.left)}px`;
  element.style.top = `${top - box.top}px`;
}

function Alternatives({ token: [text, logprob, top], place: at }) {
  const element = useRef(null);
  useLayoutEffect(() => besideToken(element.current, at), [at]);
  const rows = top.some(([other]) => other === text) ? top : [[text, logprob], ...top];
  return html`<div class="alternatives" id="alternatives" role="tooltip" ref=${element}>
    <p class="hint">${t("alternatives", { token: shown(text) })}</p>
    <table><tbody>${rows.map(([other, value], place) => html`
      <tr key=${place} class=${other === text ? "chosen" : ""}>
        <th scope="row">${shown(other)}</th><td>${percent(value)}</td>
        <td class="bar-cell"><meter min="0" max="1" value=${likely(value)}
          aria-label=${percent(value)} /></td></tr>`)}</tbody></table></div>`;
}

const Legend = () => html`<p class="legend">${t("likely")}
  ${[0, 1, 2, 3, 4].map((place) => html`<span class=${`token p${place}`} aria-hidden="true">
    ${place < 4 ? `≥ ${100 * STEPS[place]} %` : `< ${100 * STEPS[3]} %`}</span>`)}</p>`;
