// What is added to a finished block: colours of code, set formulas. The libraries are loaded when
// the first block needs them.
import { clean } from "./markdown.js";
import { later } from "./slices.js";
import { t } from "./words.js";

const MAX_FORMULA = 50; // letters; a longer one may be wider than the page
const MAX_CODE = 60000; // letters; longer code stays plain

let highlighter = null;
let formulas = null;

const colours = () => (highlighter ??= import("../vendor/highlight.js").then((m) => m.default));

const temml = () => (formulas ??= new Promise((resolve, reject) => {
  const script = document.createElement("script");
  script.src = "/app/web/vendor/temml.js";
  script.onload = () => resolve(window.temml);
  script.onerror = reject;
  document.head.append(script);
}));

export async function enhance(element) {
  const codes = [...element.querySelectorAll("code[data-lang]")]
    .filter((code) => code.dataset.lang && code.textContent.length < MAX_CODE);
  if (codes.length) {
    const hljs = await colours();
    for (const code of codes) later(() => colour(hljs, code));
  }
  const places = [...element.querySelectorAll(".maths")];
  if (places.length) {
    const library = await temml();
    for (const place of places) later(() => setFormula(library, place));
  }
}

function colour(hljs, code) {
  const language = code.dataset.lang;
  if (!hljs.getLanguage(language)) return;
  const found = hljs.highlight(code.textContent, { language, ignoreIllegals: true });
  code.innerHTML = clean(found.value);
}

function setFormula(library, place) {
  const isBlock = place.dataset.block === "true";
  try {
    const found = library.renderToString(place.dataset.tex, { displayMode: isBlock });
    // The page's policy allows no style attributes, not even in a document that is only looked at.
    const plain = found.replace(/ style="[^"]*"/g, "");
    place.innerHTML = clean(plain, { USE_PROFILES: { mathMl: true }, FORBID_ATTR: ["style"] });
    place.classList.add("set");
    if (isBlock && place.dataset.tex.length > MAX_FORMULA) makeScrollable(place);
  } catch {
    place.classList.add("unset"); // no TeX: it stays as it was written
  }
}

// With the keys, too.
function makeScrollable(place) {
  if (place.scrollWidth <= place.clientWidth) return;
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", t("formula"));
}
