// What a screen reader is told: politely, and never each token.

let region = null;

export function listen(element) {
  region = element;
}

export function announce(text) {
  if (!region) return;
  region.textContent = "";
  setTimeout(() => {
    region.textContent = text.replace(/[*_`#|]+/g, ""); // marks of markdown are not read out
  }, 50);
}
