// Light, dark, or as the system.
import { remember, remembered, set } from "./state.js";

export const THEMES = ["system", "light", "dark"];

export function wear(theme) {
  const root = document.documentElement;
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
  remember("theme", theme);
  set({ theme });
}

export const firstTheme = () => remembered("theme", "system");
