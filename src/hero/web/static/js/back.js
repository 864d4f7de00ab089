// What lies over the page (the zoom, a question, past rounds) is closed by the browser's Back, which a phone has at hand.

const layers = [];
let own = 0; // steps back that this module took itself

/** Puts a layer on top; `close` is called when the browser goes back. */
export function enterLayer(close) {
  layers.push(close);
  history.pushState({ layers: layers.length }, "");
}

/** The layer was closed otherwise: its step in the browser's history is taken back. */
export function leaveLayer(close) {
  const at = layers.indexOf(close);
  if (at < 0) return;
  layers.splice(at, 1);
  own += 1;
  history.back();
}

window.addEventListener("popstate", () => {
  if (own > 0) own -= 1;
  else layers.pop()?.();
});
