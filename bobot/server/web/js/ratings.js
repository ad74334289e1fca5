// The ratings that the votes make, each with the interval in which 95 of 100 new draws fall.
import * as api from "./api.js";
import { guarded } from "./chats.js";
import { html, useEffect, useState } from "./ui.js";
import { number, t } from "./words.js";

export function Ratings({ numVotes }) {
  const [ratings, setRatings] = useState([]);
  const [blindOnly, setBlindOnly] = useState(false);
  useEffect(() => {
    const path = `/arena/ratings${blindOnly ? "?blind_only=true" : ""}`;
    guarded(async () => setRatings((await api.get(path)).ratings));
  }, [numVotes, blindOnly]);
  return html`<section class="ratings" aria-label=${t("ratings")}>
    <header><h2>${t("ratings")}</h2>
      <label class="check"><input type="checkbox" checked=${blindOnly}
        onChange=${(event) => setBlindOnly(event.target.checked)} />${t("blind_only")}</label></header>
    ${ratings.length === 0 ? html`<p class="hint">${t("no_votes")}</p>` : html`
      <div class="table" tabindex="0" role="group" aria-label=${t("ratings")}><table>
        <thead><tr><th scope="col">${t("place")}</th><th scope="col">${t("model")}</th>
          <th scope="col">Elo</th><th scope="col">${t("interval")}</th>
          <th scope="col">${t("num_votes")}</th></tr></thead>
        <tbody>${ratings.map((one, place) => html`<tr key=${one.model}>
          <td>${place + 1}</td><th scope="row">${one.model}</th><td>${number(one.elo)}</td>
          <td>${number(one.low)} – ${number(one.high)}</td><td>${number(one.num_votes)}</td>
        </tr>`)}</tbody></table></div>`}
  </section>`;
}
