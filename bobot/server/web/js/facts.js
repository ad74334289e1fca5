// What stands beside an answer: the thoughts before it, and what it took.
import { speedText } from "./models.js";
import { html } from "./ui.js";
import { number, t } from "./words.js";

export function Reasoning({ text, isOpen = false }) {
  return html`<details class="reasoning" open=${isOpen}>
    <summary>${t(isOpen ? "thinking" : "thoughts")}</summary><p>${text}</p></details>`;
}

// Tokens, speed, and money where a host asks for it.
export function Facts({ usage }) {
  if (!usage) return null;
  const { completion_tokens: num, completion_s: seconds, cost_usd: cost } = usage;
  const found = [t("tokens", { n: number(num) })];
  if (seconds > 0 && num > 1) found.push(speedText((num - 1) / seconds));
  if (cost !== null && cost !== undefined) found.push(money(cost));
  return html`<span class="facts">${found.join(" · ")}</span>`;
}

// US dollars, with two digits that count: $0.000012, $0.0034, $1.20
function money(cost) {
  const digits = cost > 0 && cost < 0.1 ? Math.min(8, 1 - Math.floor(Math.log10(cost))) : 2;
  return t("cost", { n: number(cost, digits) });
}
