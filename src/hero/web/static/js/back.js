// What lies over the page (the zoom, a question, past rounds) is closed by the browser's Back, which a phone has at hand.
//
// Going back takes the browser a moment. A layer that is opened in that moment gets its step in the history afterwards:
// otherwise that step would be the one that is taken back, and closing the layer would leave the page.

const layers = [];
let leaving = 0; // steps back that this module took itself, and that are still under way
let waiting = 0; // layers whose step is to follow

const step = () => history.pushState({ layers: layers.length }, "");

/** Puts a layer on top; `close` is called when the browser goes back. */
export function enterLayer(close) {
  layers.push(close);
  if (leaving) waiting += 1;
  else step();
}

/** The layer was closed otherwise: its step in the browser's history is taken back. */
export function leaveLayer(close) {
  const at = layers.indexOf(close);
  if (at < 0) return;
  layers.splice(at, 1);
  if (waiting) {
    waiting -= 1;
    return;
  }
  leaving += 1;
  history.back();
}

window.addEventListener("popstate", () => {
  if (!leaving) {
    layers.pop()?.();
    return;
  }
  leaving -= 1;
  if (leaving) return;
  for (; waiting > 0; waiting -= 1) step();
});
