// What the browser remembers between visits. A browser that refuses to remember is no reason to fail.

const PREFIX = "hero.";

/** The value kept under `key`, or null. */
export function read(key) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + key));
  } catch {
    return null;
  }
}

/** Keeps `value` under `key`; null forgets it. */
export function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // private window or full: the page works without
  }
}

/** What this window alone remembers, for as long as it is open: as `read` and `write`. */
export function readHere(key) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + key));
  } catch {
    return null;
  }
}

export function writeHere(key, value) {
  try {
    sessionStorage.setItem(PREFIX + key, JSON.stringify(value));
  } catch {
    // as above
  }
}

/** Light, dark or as the system has it; "auto" follows the system. */
export function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  write("theme", theme === "auto" ? null : theme);
}
