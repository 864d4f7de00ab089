// Small helpers over the DOM: making elements, icons, words read out, words that pass by.

/** An element. `props`: attributes; `on` holds listeners, `text` the content; null and false leave an attribute out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  set(element, props);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Sets attributes, listeners and content as `h` does; writes only what differs, so it is cheap to repeat. */
export function set(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "text") {
      if (element.textContent !== String(value)) element.textContent = value;
    } else if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else {
      const wanted = value === true ? "" : String(value);
      if (element.getAttribute(name) !== wanted) element.setAttribute(name, wanted);
    }
  }
  return element;
}

const PATHS = {
  check: "M5 12.5l4.5 4.5L19 7.5",
  star: "M12 3.6l2.6 5.4 5.9.8-4.3 4.1 1.1 5.9-5.3-2.9-5.3 2.9 1.1-5.9L3.5 9.8l5.9-.8z",
  zoom: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20 20",
  undo: "M8 5L4 9l4 4M4 9h9.5a5.5 5.5 0 0 1 0 11H9",
  redo: "M16 5l4 4-4 4M20 9h-9.5a5.5 5.5 0 0 0 0 11H15",
  close: "M6 6l12 12M18 6L6 18",
  left: "M14.5 5l-7 7 7 7",
  right: "M9.5 5l7 7-7 7",
  clock: "M12 20.5a8.5 8.5 0 1 0 0-17 8.5 8.5 0 0 0 0 17zM12 7.5V12l3 2",
  menu: "M5 12h.01M12 12h.01M19 12h.01",
  help: "M9.2 9.2a2.9 2.9 0 1 1 4.2 2.6c-.9.5-1.4 1-1.4 2.2M12 17.2h.01M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z",
  theme: "M20 14.2A8.2 8.2 0 0 1 9.8 4 8.2 8.2 0 1 0 20 14.2z",
  eye: "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20.5c.8-3.8 3.7-5.5 7.5-5.5s6.7 1.7 7.5 5.5",
  unsure: "M9.2 9.2a2.9 2.9 0 1 1 4.2 2.6c-.9.5-1.4 1-1.4 2.2M12 17.2h.01",
  single: "M4.5 4.5h15v11h-15zM8 19.5h8",
  grid: "M4.5 4.5h6v6h-6zM13.5 4.5h6v6h-6zM4.5 13.5h6v6h-6zM13.5 13.5h6v6h-6z",
  note: "M5 5h14v10H9.5L5 19z",
  copy: "M8.5 8.5h11v11h-11zM15.5 8.5v-4h-11v11h4",
};

/** A drawn icon, hidden from screen readers: whatever holds it has a name of its own. */
export function icon(name) {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const path = document.createElementNS(NS, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon, a name for everybody and, where it has one, its key. */
export function iconButton(name, label, onClick, { key = null, className = "" } = {}) {
  return h(
    "button",
    {
      type: "button",
      class: `icon-button ${className}`.trim(),
      "aria-label": label,
      "aria-keyshortcuts": key,
      title: key ? `${label} (${key})` : label,
      on: { click: onClick },
    },
    icon(name),
  );
}

/** `words` with what stands between backticks as code, as the run's messages have it. */
export function rich(words) {
  return words.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));
}

/** Reads `words` out to those who listen to the page. */
export function announce(words) {
  document.getElementById("announcer").textContent = words;
}

/** Shows a line for some seconds; `tone` is "info" or "error". */
export function toast(words, tone = "info") {
  const box = document.getElementById("toasts");
  for (const old of box.children) if (old.dataset.words === words) old.remove();
  const line = h(
    "div",
    { class: `toast ${tone}`, role: tone === "error" ? "alert" : "status", "data-words": words },
    ...rich(words),
  );
  box.append(line);
  while (box.children.length > 3) box.firstChild.remove();
  setTimeout(() => line.remove(), tone === "error" ? 8000 : 4000);
}

/** "1 image", "3 images". */
export function count(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

/** "about 40 s", "about 3 min", "about 2 h". */
export function duration(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 90) return `about ${seconds < 20 ? Math.round(seconds) : Math.round(seconds / 5) * 5} s`;
  if (seconds < 5400) return `about ${Math.round(seconds / 60)} min`;
  return `about ${Math.round(seconds / 360) / 10} h`;
}
