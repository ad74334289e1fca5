// The arena: two models answer the same question; the reader says which is better.
import { announce } from "./announce.js";
import * as api from "./api.js";
import { guarded, loadList } from "./chats.js";
import { Facts, Reasoning } from "./facts.js";
import { Icon } from "./icons.js";
import { kindOf } from "./models.js";
import { Ratings } from "./ratings.js";
import { LiveText, Text } from "./text.js";
import { set, useStore } from "./state.js";
import { html, useEffect, useRef, useState } from "./ui.js";
import { t } from "./words.js";

const VOTES = ["a", "b", "tie", "both_bad"];
const LETTERS = ["A", "B"];
const empty = () => ({ turns: [], now: null, reasoning: "", asked: "", error: null });

export function Arena() {
  const models = useStore((s) => s.models);
  const [pair, setPair] = useState(null); // {id, is_blind, models}
  const [sides, setSides] = useState([empty(), empty()]);
  const [isBusy, setBusy] = useState(false);
  const [isBlind, setBlind] = useState(true);
  const [isPrivate, setPrivate] = useState(false);
  const [chosen, setChosen] = useState(["", ""]);
  const [verdict, setVerdict] = useState(null);
  const [numVotes, setNumVotes] = useState(0);
  const now = useRef([empty(), empty()]);
  const leaving = useRef(null);
  const draw = () => setSides(now.current.map((side) => ({ ...side })));
  useEffect(() => () => leaving.current?.abort(), []);

  const again = () => {
    now.current = [empty(), empty()];
    setPair(null);
    setVerdict(null);
    draw();
  };
  const take = (event) => {
    const side = now.current[event.side];
    if (event.type === "error") side.error = event.error.message;
    else if (event.type === "text") side.now += event.text;
    else if (event.type === "reasoning") side.reasoning += event.text;
    requestAnimationFrame(draw);
  };
  const send = (content) => guarded(async () => {
    leaving.current = new AbortController();
    setBusy(true);
    set({ failure: null });
    try {
      const names = chosen.map((name) => name || null);
      const wanted = { models: names, is_blind: isBlind, is_private: isPrivate };
      const mine = pair ?? (await api.post("/arena", wanted));
      setPair(mine);
      for (const side of now.current) Object.assign(side, { now: "", reasoning: "", asked: content, error: null });
      draw();
      announce(t("answering"));
      await api.stream("POST", `/arena/${mine.id}/answers`, { content }, take, leaving.current.signal);
    } finally {
      for (const side of now.current) {
        const { now: answer, reasoning } = side;
        if (answer || reasoning) side.turns.push({ question: content, answer, reasoning });
        side.now = null;
      }
      draw();
      setBusy(false);
      announce(now.current.map((side, i) =>
        `${LETTERS[i]}: ${side.turns.at(-1)?.answer.slice(0, 1500) ?? ""}`).join("\n"));
    }
  });
  const vote = (winner) => guarded(async () => {
    const found = await api.post(`/arena/${pair.id}/vote`, { winner });
    setVerdict({ ...found, winner });
    setNumVotes(numVotes + 1);
    announce(t("was_who", { a: found.models[0], b: found.models[1] }));
    await loadList();
  });
  const mayVote = pair && !verdict && !isBusy && sides.every((side) => side.turns.length > 0);
  return html`
    <main id="main" class="arena" tabindex="-1">
      <header class="bar">
        <button class="plain only-phone" aria-label=${t("conversations")}
          onClick=${() => set({ isSidebarOpen: true })}><${Icon} name="menu" /></button>
        <h1>${t("arena")}</h1><span class="space"></span>
        ${pair && isPrivate && html`<span class="tag">${t("private")}</span>`}
        ${pair && !verdict && html`<button onClick=${again} disabled=${isBusy}>${t("new_pair")}</button>`}
      </header>
      <div class="scroll" tabindex="0" role="region" aria-label=${t("arena")}>
        ${!pair && html`<${Setup} models=${models} isBlind=${isBlind} setBlind=${setBlind}
          isPrivate=${isPrivate} setPrivate=${setPrivate} chosen=${chosen} setChosen=${setChosen} />`}
        ${pair && html`<div class="columns">${sides.map((side, place) => html`
          <${Side} key=${place} side=${side} letter=${LETTERS[place]}
            name=${verdict?.models[place] ?? pair.models?.[place]}
            isWinner=${verdict?.winner === VOTES[place]} usage=${verdict?.usage[place]} />`)}</div>`}
        <${Failed} />
        <${Ratings} numVotes=${numVotes} />
      </div>
      ${mayVote && html`<${Vote} vote=${vote} />`}
      ${verdict && html`<${Verdict} verdict=${verdict} again=${again} />`}
      ${!verdict && html`<${Ask} send=${send} isBusy=${isBusy} stop=${() => leaving.current?.abort()} />`}
    </main>`;
}

function Failed() {
  const failure = useStore((s) => s.failure);
  return failure && html`<div class="failure" role="alert"><p>${failure}</p></div>`;
}

const Verdict = ({ verdict, again }) => html`
  <div class="votes" role="status">
    <p>${t("was_who", { a: verdict.models[0], b: verdict.models[1] })}</p>
    <button class="primary" onClick=${again}>${t("new_pair")}</button>
    <a class="button" href=${`#c/${verdict.conversation}`}>${t("open_conversation")}</a></div>`;

function Setup({ models, isBlind, setBlind, isPrivate, setPrivate, chosen, setChosen }) {
  const isHosted = (name) => models.find((one) => one.name === name)?.is_hosted;
  const bar = (event) => {
    setPrivate(event.target.checked);
    if (event.target.checked) setChosen(chosen.map((name) => (isHosted(name) ? "" : name)));
    announce(t(event.target.checked ? "is_private" : "not_private"));
  };
  const pick = (place) => (event) =>
    setChosen(chosen.map((name, i) => (i === place ? event.target.value : name)));
  return html`<div class="setup">
    <h2>${t("arena_title")}</h2>
    <p class="hint">${t("arena_hint")}</p>
    ${models.length === 1 && html`<p class="note">${t("arena_needs_two")}</p>`}
    <div class="grid">${LETTERS.map((letter, place) => html`
      <label key=${letter}>${t("model_letter", { letter })}
        <select value=${chosen[place]} onChange=${pick(place)}>
          <option value="">${t("any_model")}</option>
          ${models.map((model) => html`
            <option value=${model.name}
              disabled=${model.name === chosen[1 - place] || (isPrivate && model.is_hosted)}>
              ${[model.name, kindOf(model)].filter(Boolean).join(" · ")}</option>`)}
        </select></label>`)}</div>
    <label class="check"><input type="checkbox" checked=${isBlind}
      onChange=${(event) => setBlind(event.target.checked)} />${t("blind_hint")}</label>
    <label class="check"><input type="checkbox" checked=${isPrivate} onChange=${bar} />
      ${t("private_hint")}</label>
  </div>`;
}

function Side({ side, letter, name, isWinner, usage }) {
  return html`
    <section class=${`side ${isWinner ? "winner" : ""}`} aria-label=${name ?? letter}>
      <h2><span class="letter">${letter}</span>${name ?? t("hidden")}
        ${isWinner && html`<${Icon} name="check" />`}</h2>
      ${side.turns.map((turn, place) => html`
        <p key=${`q${place}`} class="asked">${turn.question}</p>
        ${turn.reasoning && html`<${Reasoning} text=${turn.reasoning} />`}
        <${Text} key=${place} text=${turn.answer} />`)}
      ${side.now !== null && html`<p class="asked">${side.asked}</p>
        ${side.reasoning && html`<${Reasoning} text=${side.reasoning} isOpen=${!side.now} />`}
        ${side.now ? html`<${LiveText} text=${side.now} />`
          : !side.error && !side.reasoning && html`<p class="waiting"><span class="dots" aria-hidden="true"></span>
            ${t("waiting")}</p>`}`}
      ${side.error && html`<p class="failure">${side.error}</p>`}
      <${Facts} usage=${usage} />
    </section>`;
}

const Vote = ({ vote }) => html`
  <div class="votes" role="group" aria-label=${t("which_better")}>
    <p>${t("which_better")}</p>
    ${VOTES.map((winner) => html`
      <button key=${winner} onClick=${() => vote(winner)}>${t(`vote_${winner}`)}</button>`)}
  </div>`;

function Ask({ send, isBusy, stop }) {
  const [text, setText] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (!text.trim() || isBusy) return;
    send(text);
    setText("");
  };
  const keys = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    <textarea id="question" rows="2" value=${text} placeholder=${t("ask_both")}
      aria-label=${t("ask_both")} onInput=${(event) => setText(event.target.value)}
      onKeyDown=${keys} />
    <div class="below"><span class="space"></span>
      ${isBusy
        ? html`<button type="button" class="round" aria-label=${t("stop_answer")} onClick=${stop}>
            <${Icon} name="stop" /></button>`
        : html`<button class="round primary" aria-label=${t("send")} disabled=${!text.trim()}>
            <${Icon} name="send" /></button>`}
    </div></form>`;
}
