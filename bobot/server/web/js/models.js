// Models to choose from: whether each fits this machine, and how fast it will be.
import { useStore } from "./state.js";
import { html, useState } from "./ui.js";
import { number, t } from "./words.js";

const KINDS = { fits: "good", "may be slow": "fair", "won't fit": "bad" };
const NAMES = { fits: "fits", "may be slow": "may_be_slow", "won't fit": "wont_fit" };

// What a model is, if it is none of this machine alone.
export function kindOf(model) {
  if (model.is_hosted) return t("hosted");
  return model.routes_to.length ? t("policy") : null;
}

export function Pill({ model }) {
  if (!model) return null;
  const kind = kindOf(model);
  if (kind) {
    const leaves = model.is_hosted || model.hosted_routes.length > 0;
    return html`<span class=${`pill ${leaves ? "hosted" : ""}`}>${kind}</span>`;
  }
  const verdict = model.fit?.verdict;
  if (!verdict) return model.fit ? null : html`<span class="pill">${t("measuring")}</span>`;
  return html`<span class=${`pill ${KINDS[verdict]}`}>${t(NAMES[verdict])}</span>`;
}

export const speedText = (value) => t("speed", { n: number(value, value < 10 ? 1 : 0) });

const MANY = 8; // models; a longer list can be narrowed

// 8.03e9 -> "8.0 B", 10.5e6 -> "10 M"
function scaled(value, steps) {
  const [size, unit] = steps.find(([limit]) => value >= limit) ?? steps.at(-1);
  const amount = value / size;
  return `${number(amount, amount < 10 ? 1 : 0)} ${unit}`;
}

const COUNTS = [[1e9, "B"], [1e6, "M"]];
const BYTES = [[1 << 30, "GiB"], [1 << 20, "MiB"]];

function facts(model) {
  const found = [];
  if (model.num_parameters) found.push(scaled(model.num_parameters, COUNTS));
  if (model.size_bytes) found.push(scaled(model.size_bytes, BYTES));
  if (model.context) found.push(t("context_of", { n: number(model.context) }));
  if (model.is_hosted) found.push(t("goes_to", { owner: model.owner }));
  if (model.routes_to.length) found.push(t("chooses_among", { models: model.routes_to.join(", ") }));
  if (model.hosted_routes.length) found.push(t("may_go_to", { models: model.hosted_routes.join(", ") }));
  if (model.fit?.reason) found.push(model.fit.reason);
  return found.join(" · ");
}

export function ModelList({ choose, chosen }) {
  const models = useStore((s) => s.models);
  const isPrivate = useStore((s) => s.conversation?.is_private);
  const [part, setPart] = useState("");
  const shown = models.filter((one) => one.name.toLowerCase().includes(part.trim().toLowerCase()));
  return html`${models.length > MANY && html`<label class="narrow">
    <input type="search" value=${part} placeholder=${t("narrow")} aria-label=${t("narrow")}
      onInput=${(event) => setPart(event.target.value)} /></label>`}
  <ul class="models">${shown.map((model) => {
    const isBarred = isPrivate && model.is_hosted;
    return html`<li key=${model.name}>
      <button aria-pressed=${model.name === chosen} disabled=${isBarred}
        onClick=${() => choose(model.name)}>
        <span class="name">${model.name}</span><${Pill} model=${model} />
        <span class="facts">${isBarred ? t("private_bars") : facts(model)}</span>
        ${model.fit?.tokens_per_s && html`
          <span class="speed">${speedText(model.fit.tokens_per_s)}</span>`}
      </button></li>`;
  })}</ul>`;
}
