// The page in the reader's language. Every sentence stands in locale/*.json under a key.
import { remember, remembered, set } from "./state.js";

export const LANGUAGES = { en: "English", id: "Bahasa Indonesia" };
let words = {};

export async function speak(language) {
  remember("language", language);
  const answer = await fetch(`/app/web/locale/${language}.json`);
  words = await answer.json();
  document.documentElement.lang = language;
  set({ language });
}

export function firstLanguage() {
  const wished = [remembered("language", ""), ...navigator.languages.map((tag) => tag.slice(0, 2))];
  return wished.find((language) => language in LANGUAGES) ?? "en";
}

// t("of", {n: 1, count: 3}) with "of": "{n} of {count}"
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const number = (value, digits = 0) =>
  value.toLocaleString(document.documentElement.lang, {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  });
