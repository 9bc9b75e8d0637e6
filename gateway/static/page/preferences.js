/** The language and the theme that the user chose, remembered in localStorage. */

export const LANGUAGES = { en: "English", ru: "Русский" };
export const THEMES = ["system", "light", "dark"];

/** Return the remembered language, or the best one for the browser's own languages. */
export function language() {
  const wanted = [localStorage.getItem("language"), ...navigator.languages];
  const known = wanted.map((tag) => (tag ?? "").slice(0, 2)).filter((tag) => tag in LANGUAGES);
  return known[0] ?? "en";
}

export function rememberLanguage(value) {
  localStorage.setItem("language", value);
}

export function theme() {
  const remembered = localStorage.getItem("theme");
  return THEMES.includes(remembered) ? remembered : "system";
}

export function rememberTheme(value) {
  localStorage.setItem("theme", value);
}

/** Apply a theme. The stylesheet follows the system unless the attribute names a theme. */
export function applyTheme(value) {
  document.documentElement.dataset.theme = value;
}
