// Markdown on the page. A message out of view is plain text until the reader comes near: a long
// conversation costs no more than what is seen, and the browser's own search finds all of it.
import { announce } from "./announce.js";
import { Blocks, blocksOf } from "./blocks.js";
import { enhance } from "./enhance.js";
import { htmlOf } from "./markdown.js";
import { Component, html, useEffect, useRef, useState } from "./ui.js";
import { t } from "./words.js";

const AHEAD = "1200px"; // above and below what is seen

class Block extends Component {
  shouldComponentUpdate(next) {
    return next.source !== this.props.source || next.isOpen !== this.props.isOpen;
  }

  componentDidMount() {
    this.draw();
  }

  componentDidUpdate() {
    this.draw();
  }

  draw() {
    const { source, isOpen } = this.props;
    this.element.innerHTML = htmlOf(source);
    if (!isOpen) enhance(this.element);
  }

  render() {
    return html`<div class="block" ref=${(element) => { this.element = element; }}></div>`;
  }
}

export function Text({ text }) {
  return html`<div class="prose" onClick=${act}>
    ${blocksOf(text).map((source, place) => html`<${Block} key=${place} source=${source} />`)}
  </div>`;
}

export function LiveText({ text }) {
  const blocks = useRef(null);
  blocks.current ??= new Blocks();
  const { done, open } = blocks.current.read(text);
  return html`<div class="prose" onClick=${act}>
    ${done.map((source, place) => html`<${Block} key=${place} source=${source} />`)}
    ${open.trim() && html`<${Block} key=${done.length} source=${open} isOpen=${true} />`}
  </div>`;
}

const nearby = new Map();
const watchers = new WeakMap(); // the box that scrolls -> its watcher

function watcherOf(box) {
  if (!watchers.has(box)) {
    const look = (entries) => {
      for (const entry of entries) if (entry.isIntersecting) nearby.get(entry.target)?.();
    };
    watchers.set(box, new IntersectionObserver(look, { root: box, rootMargin: `${AHEAD} 0px` }));
  }
  return watchers.get(box);
}

function watch(element, tell) {
  const watcher = watcherOf(element.closest(".talk"));
  nearby.set(element, tell);
  watcher.observe(element);
  return () => {
    nearby.delete(element);
    watcher.unobserve(element);
  };
}

export function LazyText({ text }) {
  const [isNear, setNear] = useState(false);
  const element = useRef(null);
  useEffect(() => (isNear ? undefined : watch(element.current.closest(".message"), () => setNear(true))), [isNear]);
  if (isNear) return html`<${Text} text=${text} />`;
  return html`<div class="prose far" ref=${element}>${text}</div>`;
}

async function act(event) {
  const button = event.target.closest("button[data-act=copy]");
  if (!button) return;
  const code = button.closest(".code").querySelector("code");
  await navigator.clipboard.writeText(code.textContent.replace(/\n$/, ""));
  button.textContent = t("copied");
  announce(t("copied"));
  setTimeout(() => {
    button.textContent = t("copy");
  }, 1500);
}
