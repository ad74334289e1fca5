// From markdown to safe HTML. Raw HTML of a model is shown as text, pictures become links, and
// DOMPurify looks at all of it again.
import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/dompurify.js";
import { t } from "./words.js";

const escaped = (text) =>
  text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

const isFine = (address) => /^(https?:|mailto:)/i.test(address);

const renderer = {
  html: ({ text }) => escaped(text),
  code({ text, lang }) {
    const name = (lang ?? "").match(/^\S*/)[0];
    const label = escaped(name || t("code"));
    return `<div class="code"><div class="code-head"><span>${label}</span>` +
      `<button type="button" class="copy" data-act="copy">${escaped(t("copy"))}</button></div>` +
      `<pre tabindex="0" role="group" aria-label="${label}">` +
      `<code data-lang="${escaped(name)}">${escaped(text)}\n</code></pre></div>`;
  },
  link({ href, tokens }) {
    const inside = this.parser.parseInline(tokens);
    if (!isFine(href)) return inside;
    return `<a href="${escaped(href)}" target="_blank" rel="noopener noreferrer">${inside}</a>`;
  },
  image({ href, text }) {
    const label = escaped(text || href);
    return isFine(href)
      ? `<a href="${escaped(href)}" target="_blank" rel="noopener noreferrer">${label}</a>` : label;
  },
  table(token) {
    const row = (cells, tag) => `<tr>${cells.map((cell) => `<${tag} class="${cell.align ?? "left"}">` +
      `${this.parser.parseInline(cell.tokens)}</${tag}>`).join("")}</tr>`;
    return `<div class="table" tabindex="0" role="group" aria-label="${escaped(t("table"))}">` +
      `<table><thead>${row(token.header, "th")}</thead>` +
      `<tbody>${token.rows.map((cells) => row(cells, "td")).join("")}</tbody></table></div>`;
  },
  checkbox: ({ checked }) => (checked ? "&#9745; " : "&#9744; "),
};

const maths = (name, level, pattern, start, isBlock) => ({
  name,
  level,
  start: (text) => text.search(start),
  tokenizer(text) {
    const found = pattern.exec(text);
    return found ? { type: name, raw: found[0], tex: (found[1] ?? found[2]).trim() } : undefined;
  },
  renderer: ({ tex }) =>
    `<span class="maths" data-tex="${escaped(tex)}" data-block="${isBlock}">${escaped(tex)}</span>` +
    (isBlock ? "\n" : ""),
});

const marked = new Marked({ gfm: true, renderer });
marked.use({
  extensions: [
    maths("mathsBlock", "block",
      /^(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/, /\$\$|\\\[/, true),
    maths("mathsInline", "inline",
      /^(?:\$(?![\s\d.,]*\s)((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([\s\S]+?)\\\))/,
      /\$|\\\(/, false),
  ],
});

const RULES = {
  FORBID_TAGS: ["style", "form", "input", "textarea", "select", "img", "video", "audio", "svg"],
  FORBID_ATTR: ["style", "id", "name", "srcset"],
  ADD_ATTR: ["target"],
};

export const lexer = (text) => marked.lexer(text);
export const clean = (text, rules = RULES) => DOMPurify.sanitize(text, rules);
export const htmlOf = (text) => clean(marked.parse(text));
