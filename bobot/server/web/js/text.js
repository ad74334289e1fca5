// Markdown on the page, and who is told when the reader comes near a message.
import { announce } from "./announce.js";
import { Blocks, blocksOf } from "./blocks.js";
import { enhance } from "./enhance.js";
import { htmlOf } from "./markdown.js";
import { later } from "./slices.js";
import { Component, html, useRef } from "./ui.js";
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

const watched = new Map(); // element -> {tell, isNear}
const watchers = new WeakMap(); // the box that scrolls -> its watcher

// One that was passed by before its turn came is left as it was.
function look(entries) {
  for (const { target, isIntersecting } of entries) {
    const one = watched.get(target);
    if (!one) continue;
    one.isNear = isIntersecting;
    if (isIntersecting) later(() => watched.get(target)?.isNear && one.tell());
  }
}

function watcherOf(box) {
  if (!watchers.has(box)) {
    watchers.set(box, new IntersectionObserver(look, { root: box, rootMargin: `${AHEAD} 0px` }));
  }
  return watchers.get(box);
}

// Calls tell() once the element is near what is seen; returns how to give that up.
export function watch(element, tell) {
  const watcher = watcherOf(element.closest(".talk"));
  watched.set(element, { tell, isNear: false });
  watcher.observe(element);
  return () => {
    watched.delete(element);
    watcher.unobserve(element);
  };
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
