// The settings of one conversation: persona, system prompt, sampling, privacy.
import { change, setPrivate } from "./chats.js";
import { Icon } from "./icons.js";
import { set, useStore } from "./state.js";
import { html } from "./ui.js";
import { t } from "./words.js";

const FIELDS = [
  ["temperature", { min: 0, max: 2, step: 0.05 }],
  ["top_p", { min: 0, max: 1, step: 0.01 }],
  ["top_k", { min: 0, step: 1 }],
  ["min_p", { min: 0, max: 1, step: 0.01 }],
  ["max_tokens", { min: 1, step: 1 }],
  ["repetition_penalty", { min: 0.01, max: 100, step: 0.01 }],
  ["presence_penalty", { min: -2, max: 2, step: 0.1 }],
  ["frequency_penalty", { min: -2, max: 2, step: 0.1 }],
  ["seed", { step: 1 }],
];

export function Panel() {
  const conversation = useStore((s) => s.conversation);
  const personas = useStore((s) => s.personas);
  const language = useStore((s) => s.language);
  const persona = personas.find((one) => one.name === conversation.persona);
  const ofPersona = persona?.system[language] ?? persona?.system.en ?? "";
  return html`
    <aside class="panel" aria-label=${t("settings")}>
      <header><h2>${t("settings")}</h2>
        <button class="plain" aria-label=${t("close")} onClick=${() => set({ isPanelOpen: false })}>
          <${Icon} name="close" /></button></header>
      <div class="fields">
        <label>${t("persona")}
          <select value=${conversation.persona ?? "plain"}
            onChange=${(event) => change({ persona: event.target.value, system: null })}>
            ${personas.map((one) => html`
              <option value=${one.name}>${t(`persona_${one.name}`)}</option>`)}
          </select></label>
        <label>${t("system_prompt")}
          <textarea rows="5" value=${conversation.system ?? ""} placeholder=${ofPersona || t("none")}
            onChange=${(event) => change({ system: event.target.value || null })} /></label>
        <${Private} conversation=${conversation} />
        <h3>${t("sampling")}</h3>
        <p class="hint">${t("sampling_hint")}</p>
        <div class="grid">${FIELDS.map(([name, limits]) => html`
          <${NumberField} key=${name} name=${name} limits=${limits} settings=${conversation.settings} />`)}
        </div>
        <label>${t("reasoning_effort")}
          <select value=${conversation.reasoning_effort ?? ""}
            onChange=${(event) => change({ reasoning_effort: event.target.value || null })}>
            <option value="">${t("own_choice")}</option>
            ${["low", "medium", "high"].map((name) => html`
              <option value=${name}>${t(`effort_${name}`)}</option>`)}
          </select></label>
      </div>
    </aside>`;
}

function Private({ conversation }) {
  return html`<fieldset class="choices column"><legend>${t("privacy")}</legend>
    <label><input type="checkbox" checked=${conversation.is_private}
      onChange=${(event) => setPrivate(event.target.checked)} />${t("private_hint")}</label>
    <label><input type="checkbox" checked=${!conversation.is_kept} disabled=${conversation.id !== null}
      onChange=${(event) => change({ is_kept: !event.target.checked })} />${t("not_kept_hint")}</label>
  </fieldset>`;
}

function NumberField({ name, limits, settings }) {
  const take = (event) => {
    const { value, valueAsNumber, validity } = event.target;
    event.target.setCustomValidity("");
    if (value !== "" && (validity.rangeUnderflow || validity.rangeOverflow || validity.badInput)) {
      event.target.reportValidity();
      return;
    }
    const { [name]: _, ...rest } = settings;
    change({ settings: value === "" ? rest : { ...rest, [name]: valueAsNumber } });
  };
  return html`<label><code>${name}</code>
    <input type="number" inputmode="decimal" ...${limits} value=${settings[name] ?? ""}
      placeholder=${t("automatic")} onChange=${take} /></label>`;
}
