// Pictures that did not come are asked for again: a few times soon, and all of them when the server is back.

const WAITS = [600, 1500, 4000];
const broken = new Set();

/** Watches every picture of the page. */
export function watchPictures() {
  const settled = (event) => {
    const picture = event.target;
    if (picture.tagName !== "IMG") return;
    if (event.type === "load") {
      broken.delete(picture);
      picture.classList.add("loaded");
      delete picture.dataset.tries;
      return;
    }
    const tries = Number(picture.dataset.tries ?? 0);
    picture.dataset.tries = tries + 1;
    broken.add(picture);
    if (tries < WAITS.length) setTimeout(() => broken.has(picture) && again(picture), WAITS[tries]);
  };
  for (const kind of ["load", "error"]) document.addEventListener(kind, settled, true); // neither bubbles
}

/** Asks for all that are missing. */
export function retryPictures() {
  for (const picture of broken) {
    if (picture.isConnected) again(picture);
    else broken.delete(picture);
  }
}

function again(picture) {
  const source = picture.src;
  picture.removeAttribute("src");
  picture.src = source;
}
