// One message: who said it, what, what can be done with it, and the way to its other branches.
// Out of view it is plain text until the reader comes near: a long conversation costs no more than
// what is seen, and the browser's own search finds all of it.
import { announce } from "./announce.js";
import { edit, regenerate, turn } from "./answers.js";
import { branchOff } from "./chats.js";
import { Facts, Reasoning } from "./facts.js";
import { Icon } from "./icons.js";
import * as live from "./live.js";
import { speedText } from "./models.js";
import { useStore } from "./state.js";
import { LiveText, Text, watch } from "./text.js";
import { Tokens } from "./tokens.js";
import { Component, html, useEffect, useReducer, useState } from "./ui.js";
import { number, t } from "./words.js";

export class Message extends Component {
  constructor(props) {
    super(props);
    this.state = { isNear: props.isLast || props.isLive };
  }

  componentDidMount() {
    if (this.state.isNear) return;
    this.forget = watch(this.element, () => this.setState({ isNear: true }));
  }

  componentWillUnmount() {
    this.forget?.();
  }

  shouldComponentUpdate(next, { isNear }) {
    const old = this.props;
    return next.message !== old.message || next.isLive !== old.isLive ||
      next.siblings.length !== old.siblings.length || isNear !== this.state.isNear;
  }

  render({ message, isLive, siblings }, { isNear }) {
    const isUser = message.role === "user";
    const who = isUser ? t("you") : message.model ?? t(`role_${message.role}`);
    return html`
      <article class=${`message ${isUser ? "from-user" : "from-model"}`} tabindex="-1"
        data-id=${message.id} aria-label=${who} aria-busy=${isLive}
        ref=${(element) => { this.element = element; }}>
        ${!isUser && html`<p class="who">${who}</p>`}
        ${!isNear ? html`<${Far} message=${message} isUser=${isUser} />`
          : isUser ? html`<${Question} message=${message} />`
          : isLive ? html`<${LiveAnswer} message=${message} />`
          : html`<${Answer} message=${message} />`}
        ${isNear && !isLive && !isUser && html`<${Tools} message=${message} siblings=${siblings} />`}
        ${isNear && isUser && siblings.length > 1 && html`
          <${Turner} message=${message} siblings=${siblings} />`}
      </article>`;
  }
}

const Far = ({ message, isUser }) => (isUser
  ? html`<div class="bubble typed">${message.extra.typed ?? message.content}</div>`
  : html`<div class="prose far">${message.content}</div>`);

function Question({ message }) {
  const typed = message.extra.typed ?? message.content;
  const files = message.extra.attachments ?? [];
  const [text, setText] = useState(null);
  if (text !== null) {
    const submit = (event) => {
      event.preventDefault();
      setText(null);
      edit(message, text);
    };
    const keys = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
      if (event.key === "Escape") setText(null);
    };
    return html`<form class="editor" onSubmit=${submit}>
      <textarea autofocus rows=${Math.min(12, text.split("\n").length + 1)} value=${text}
        aria-label=${t("edit_question")} ref=${(element) => element?.focus()}
        onInput=${(event) => setText(event.target.value)} onKeyDown=${keys} />
      <div class="buttons"><button type="button" onClick=${() => setText(null)}>${t("cancel")}</button>
        <button class="primary" disabled=${!text.trim() && !files.length}>${t("send")}</button></div>
    </form>`;
  }
  return html`
    <div class="bubble">
      <p class="typed">${typed}</p>
      ${files.length > 0 && html`<ul class="chips">${files.map((file) => html`
        <li class="chip"><${Icon} name="clip" />${file.name}
          <small>${t("letters", { n: number(file.text.length) })}</small></li>`)}</ul>`}
    </div>
    <div class="tools at-user">
      <${CopyButton} text=${typed} />
      <button class="plain" aria-label=${t("edit_question")} title=${t("edit_question")}
        onClick=${() => setText(typed)}><${Icon} name="edit" /></button>
      <${BranchOffButton} message=${message} />
    </div>`;
}

function Answer({ message }) {
  const showsTokens = useStore((s) => s.showsTokens);
  return html`
    ${message.reasoning && html`<${Reasoning} text=${message.reasoning} />`}
    ${showsTokens && message.has_tokens
      ? html`<${Tokens} message=${message} />` : html`<${Text} text=${message.content} />`}
    ${message.is_partial && html`<p class="note">${t("cut_off")}</p>`}
    ${message.finish_reason === "stopped" && html`<p class="note">${t("was_stopped")}</p>`}
    ${message.finish_reason === "length" && html`<p class="note">${t("was_too_long")}</p>`}`;
}

function LiveAnswer({ message }) {
  const [, draw] = useReducer((count) => count + 1, 0);
  const entry = live.find(message.id);
  useEffect(() => {
    entry?.listeners.add(draw);
    return () => entry?.listeners.delete(draw);
  }, [entry]);
  const showsTokens = useStore((s) => s.showsTokens);
  if (!entry || (!entry.text && !entry.reasoning)) {
    return html`<p class="waiting"><span class="dots" aria-hidden="true"></span>
      ${entry?.prompt ? t("reading", { n: number(entry.prompt) }) : t("waiting")}</p>`;
  }
  const speed = live.speedOf(entry);
  return html`
    ${entry.reasoning && html`
      <${Reasoning} text=${entry.reasoning} isOpen=${!entry.text} />`}
    ${showsTokens && entry.tokens.length
      ? html`<${Tokens} tokens=${entry.tokens} />` : html`<${LiveText} text=${entry.text} />`}
    <p class="meter" aria-hidden="true">${t("tokens_so_far", { n: number(entry.num) })}
      ${speed && ` · ${speedText(speed)}`}</p>`;
}

function Tools({ message, siblings }) {
  return html`<div class="tools">
    <${Turner} message=${message} siblings=${siblings} />
    <${CopyButton} text=${message.content} />
    <button class="plain" aria-label=${t("regenerate")} title=${t("regenerate")}
      onClick=${() => regenerate(message)}><${Icon} name="again" /></button>
    <${BranchOffButton} message=${message} />
    <${Facts} usage=${message.usage} />
  </div>`;
}

function Turner({ message, siblings }) {
  if (siblings.length < 2) return null;
  const place = siblings.indexOf(message.id);
  return html`<span class="turner" role="group" aria-label=${t("branches")}>
    <button class="plain" aria-label=${t("branch_before")} disabled=${place === 0}
      onClick=${() => turn(message, -1)}><${Icon} name="left" /></button>
    <span>${t("of", { n: place + 1, count: siblings.length })}</span>
    <button class="plain" aria-label=${t("branch_after")} disabled=${place === siblings.length - 1}
      onClick=${() => turn(message, 1)}><${Icon} name="right" /></button></span>`;
}

const BranchOffButton = ({ message }) => html`
  <button class="plain" aria-label=${t("branch_off")} title=${t("branch_off")}
    onClick=${() => branchOff(message)}><${Icon} name="branch" /></button>`;

function CopyButton({ text }) {
  const [isDone, setDone] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setDone(true);
    announce(t("copied"));
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button class="plain" aria-label=${t("copy")} title=${t("copy")} onClick=${copy}>
    <${Icon} name=${isDone ? "check" : "copy"} /></button>`;
}
