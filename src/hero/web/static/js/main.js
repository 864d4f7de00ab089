// The page: joins the stream of events, the marks and the parts that show them.

import { ApiError, getState, postCommand, postReopen } from "./api.js";
import { enterLayer, leaveLayer } from "./back.js";
import { Bar } from "./bar.js";
import { askName, askReason, askRounds, askStop, NAME, showHelp } from "./dialogs.js";
import { announce, count, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { listenToKeys } from "./keys.js";
import { listen } from "./live.js";
import { Marks } from "./marks.js";
import { applyTheme, read, write } from "./memory.js";
import { showNotices } from "./notices.js";
import { isOn, tell, toggle } from "./notify.js";
import { suggestedOrder } from "./order.js";
import { Outbox } from "./outbox.js";
import { Past } from "./past.js";
import { retryPictures, watchPictures } from "./pictures.js";
import { Rail } from "./rail.js";
import { Seen } from "./seen.js";
import { Single } from "./single.js";
import {
  canReopen,
  commandName,
  createStore,
  fold,
  INITIAL,
  isDrawn,
  isEvaluation,
  scene,
  severalPrompts,
  withMine,
} from "./state.js";
import { Topbar } from "./topbar.js";
import { Training } from "./training.js";
import { Zoom } from "./zoom.js";

applyTheme(read("theme") ?? "auto");

const byId = (id) => document.getElementById(id);
const remembered = read("evaluator");
const store = createStore(
  {
    ...INITIAL,
    evaluator: NAME.test(remembered ?? "") ? remembered : "me",
    size: read("size"),
    view: read("view") === "single" ? "single" : "grid",
  },
);
const outbox = new Outbox({ onAnswer: answered, onRefused: refused, onState: sendingState });
const seen = new Seen(() => store.patch({}));
const marks = new Marks(store, outbox, seen, changedBack);
const stage = byId("stage");
const notices = byId("notices");

// ------------------------------------------------------------------------------------------- what is done

const act = {
  good: (id = grid.active) => marked(id, () => marks.toggleGood(id)),
  best: (id = grid.active) => !isEvaluation(store.get()) && marked(id, () => marks.toggleBest(id)),
  bad: (id) => settled(id, () => marks.toggleBad(id ?? grid.active)),
  unsure: (id) => settled(id, () => marks.toggleUnsure(id ?? grid.active)),
  range: (ids) => change(() => marks.setAll(ids, "good")) && announce(`${count(ids.length, "image")} good`),
  rest: () => {
    if (isEvaluation(store.get())) return;
    let settledNow = 0;
    change(() => (settledNow = marks.restAsSuggested()) > 0);
    if (settledNow) toast(`${count(settledNow, "image")} marked as the model suggests; u takes it back.`);
    else if (store.get().round.suggestions) toast("Nothing is left to mark as suggested.");
    else toast("There are no suggestions yet.");
  },
  why: async (id = asked()) => {
    if (!id || !isOpen()) return;
    const before = marks.now().reasons[id] ?? "";
    const words = await askReason(before);
    if (words !== null && words !== before) change(() => marks.say(id, words || null));
    if (zoom.isOpen) zoom.update();
    else refocus();
  },
  decide: (what) => decide(what),
  view: () => {
    const view = store.get().view === "single" ? "grid" : "single";
    write("view", view === "single" ? view : null);
    if (view === "single") single.id = grid.active && isUndecided(grid.active) ? grid.active : null;
    store.patch({ view, confirming: false });
    focusDue = true;
  },
  toUnseen: () => {
    const [first] = marks.unseen();
    if (store.get().view === "single") act.view();
    store.patch({ prompt: null });
    if (first) requestAnimationFrame(() => grid.focus(first));
  },
  reopen: async () => {
    const { round, evaluator } = store.get();
    if (!canReopen(store.get())) return;
    try {
      const mine = await postReopen(round.round, evaluator);
      store.patch((state) => withMine(state, round.round, mine));
      announce("Your answer is open again");
      focusDue = true;
    } catch (error) {
      toast(error instanceof ApiError ? error.message : "The server is away; try again in a moment.", "error");
      await reload();
    }
  },
  keep: (id) => {
    const kept = store.get().round.best.filter((image) => image.id === (id ?? image.id));
    const replaced = kept.filter((image) => !marks.kept().includes(image));
    for (const image of replaced) change(() => marks.keep(image.id));
    if (replaced.length) announce("The earlier best stays");
  },
  all: () => change(() => marks.all(shownIds())),
  none: () => change(() => marks.none(shownIds())),
  prompt: (prompt) => {
    store.patch({ prompt });
    focusDue = true;
  },
  notify: async () => {
    await toggle();
    toast(isOn() ? "You are told by a sound when a round is ready, while you look elsewhere." : "No more sounds.");
    store.patch({});
  },
  undo: () => change(() => marks.undo()),
  redo: () => change(() => marks.redo()),
  move: (key) => activeGrid().move(key),
  zoom: () => openZoom(activeGrid().active),
  step: (by) => zoom.step(by),
  zoomMark: (kind) => {
    zoom.mark(kind);
    if (kind === "bad" || kind === "unsure") zoom.step(1);
  },
  zoomActual: () => zoom.actual(),
  zoomClose: () => zoom.close(),
  nothing: () => true,
  enter: () => bar.go.click(),
  confirm: () => {
    store.patch({ confirming: true });
    queueMicrotask(() => bar.go.focus());
    announce(byId("bar-words").textContent);
  },
  cancel: () => {
    store.patch({ confirming: false });
    grid.focus();
  },
  submit: () => {
    if (isOpen() && isDrawn(store.get().round)) {
      marks.submit(marks.counts().good === 0);
      store.patch({ confirming: false });
    }
  },
  leave: () => act.past(null),
  past: (round) => {
    const { past, answers } = store.get();
    const wanted = round === undefined ? (past === null ? answers.at(-1)?.round ?? null : null) : round;
    if (past === null && wanted !== null) enterLayer(leavePast);
    if (past !== null && wanted === null) leaveLayer(leavePast);
    store.patch({ past: wanted });
    stage.scrollTop = 0;
  },
  suggest: () => {
    const suggestions = !store.get().suggestions;
    write("suggestions", suggestions ? store.get().desk : null); // for this run: another one asks anew
    order.forget();
    store.patch({ suggestions });
    if (suggestions && !store.get().round?.suggestions) toast("Suggestions come as soon as the run has made them.");
  },
  size: (size) => {
    write("size", size);
    store.patch({ size });
  },
  refocus: () => refocus(),
  reveal: () => {
    store.patch({ revealed: !store.get().revealed });
    setTimeout(() => seen.wait());
  },
  theme: () => {
    const dark = read("theme") ? read("theme") === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    applyTheme(dark ? "light" : "dark");
  },
  help: () => showHelp(isEvaluation(store.get())).then(refocus),
  rename: async () => {
    const { evaluator, evaluators } = store.get();
    const known = evaluators.map((person) => person.name);
    const given = await askName(read("evaluator") ?? (evaluator === "me" ? "" : evaluator), known);
    const name = known.find((one) => one.toLowerCase() === given?.toLowerCase()) ?? given; // "anna" is Anna
    if (name) {
      write("evaluator", name);
      store.patch({ evaluator: name, mine: INITIAL.mine });
      await reload();
      marks.restart();
      live?.retry(); // the stream tells one person's marks
    }
    refocus();
  },
  stop: async () => {
    if (await askStop(commandName(store.get().run))) act.command("stop");
  },
  more: async () => {
    const rounds = await askRounds();
    if (rounds) act.command("more-rounds", { rounds });
  },
  command: async (kind, body = {}) => {
    try {
      await postCommand(kind, body, store.get().evaluator);
      toast(
        {
          pause: "Pausing after this step.",
          resume: "Going on.",
          stop: "Stopping after this step.",
          "more-rounds": `${count(body.rounds, "round")} added.`,
          finish: "Finishing.",
        }[kind],
      );
    } catch (error) {
      toast(error instanceof ApiError ? error.message : "The server is away; try again in a moment.", "error");
    }
  },
};

/** The images of this round in the order shown; of one prompt, if one was chosen. */
function shownImages(state) {
  const images = order.of(state);
  return state.prompt === null ? images : images.filter((image) => image.prompt === state.prompt);
}

const shownIds = () => shownImages(store.get()).map((image) => image.id);

const leavePast = () => store.patch({ past: null });

const isOpen = () => scene(store.get()) === "label" && !marks.isSubmitted();

/** A change to the marks, where the round is open to it. */
function change(deed) {
  if (!isOpen()) return false;
  if (store.get().confirming) store.patch({ confirming: false });
  const changed = deed();
  view = null;
  store.patch({});
  return changed;
}

function marked(id, deed) {
  if (!id || !change(deed)) return;
  const look = lookOf(id);
  const { good } = marks.counts();
  const words = { good: "Good", bad: "Bad", unsure: "Unsure" }[look.verdict] ?? "Not good";
  announce(`${look.best ? "Best" : words}. ${good} good`);
}

/** A mark after which there is nothing more to say about the image: by key, the next one comes. */
function settled(id, deed) {
  const target = id ?? grid.active;
  marked(target, deed);
  const verdict = marks.verdict(target);
  if (id === undefined && (verdict === "bad" || verdict === "unsure")) grid.next();
}

/** The image that a key speaks of. */
function asked() {
  if (zoom.isOpen) return zoom.id;
  return store.get().view === "single" ? single.id : grid.active;
}

/** Whether the person themselves has said nothing about an image. */
function isUndecided(id) {
  view ??= marks.now();
  return !(id in view.marks) && !view.unsure.has(id);
}

/** In the one-at-a-time view: the image is decided, and the next one comes. */
function decide(what) {
  const { id } = single;
  if (!id || !isOpen() || !isUndecided(id) || (what === "best" && isEvaluation(store.get()))) return;
  single.leaveTo(what);
  const deeds = {
    good: () => marks.setAll([id], "good"),
    bad: () => marks.setAll([id], "bad"),
    unsure: () => marks.toggleUnsure(id),
    best: () => marks.toggleBest(id),
  };
  marked(id, deeds[what]);
}

// ------------------------------------------------------------------------------------------- parts

const order = suggestedOrder((state) => outbox.letters.length > 0 || Object.keys(state.mine.marks).length > 0);
const grid = new Grid(
  "Images of this round",
  { toggle: act.good, range: act.range, bad: act.bad, best: act.best, zoom: openZoom },
  seen,
);
const lookedAt = (id) => store.get().past === null && seen.add(id);
const zoom = new Zoom({
  onClose: (id) => (activeGrid().cells.has(id) ? activeGrid().focus(id) : refocus()),
  onShow: lookedAt,
});
const single = new Single({ act, onShow: lookedAt });
const topbar = new Topbar(byId("topbar"), { store, act });
const rail = new Rail(byId("rail"), { marks, act, zoom: openZoom });
const bar = new Bar(byId("bar"), { marks, store, act, zoom: openZoom });
const training = new Training({ act, zoom: (ids, id) => zoom.open(ids, id, () => ({}), null) });
const past = new Past({ store, act, zoom: (ids, id, look) => zoom.open(ids, id, look, null) });
const activeGrid = () => (store.get().past === null ? grid : past.grid);

let view = null; // of the marks; made once for all parts that show them

function lookOf(id) {
  view ??= marks.now();
  const { round } = store.get();
  const image = round.images.find((one) => one.id === id) ?? round.best.find((one) => one.id === id);
  const suggestion = !(id in view.marks) && !view.unsure.has(id) && marks.suggestions[id];
  return {
    verdict: marks.verdict(id, view),
    best: view.best.has(id),
    suggested: suggestion ? suggestion.verdict : null,
    unsent: store.get().connection === "away" && view.unsent.has(id),
    reason: view.reasons[id] ?? null,
    prompt: severalPrompts(store.get()) ? image?.prompt : null,
  };
}

function openZoom(id) {
  if (!id) return;
  if (store.get().past !== null) past.look(id);
  else if (isOpen()) zoom.open(
    grid.order,
    id,
    lookOf,
    {
      toggle: act.good,
      bad: act.bad,
      unsure: act.unsure,
      why: act.why,
      best: isEvaluation(store.get()) ? null : act.best,
    },
  );
  else zoom.open([id], id, () => ({}), null);
}

// ------------------------------------------------------------------------------------------- showing it

const scenes = {
  label: grid.root,
  past: past.root,
  training: training.root,
  end: training.root,
  loading: training.root,
};
let shownScene = null;
let shownRound = null;
let focusDue = false; // a round has begun, and its first image takes the keyboard when it is there

function render(state) {
  view = null;
  const current = marks.isSubmitted() && scene(state) === "label" ? "training" : scene(state);
  const shown = current === "training" && scene(state) === "label" ? {
    ...state,
    mine: { ...state.mine, submitted: true },
  } : state;
  document.documentElement.classList.toggle("veiled", Boolean(state.run?.sensitive) && !state.revealed);
  document.documentElement.classList.toggle("evaluation", isEvaluation(state));
  document.documentElement.dataset.scene = current;
  const oneByOne = current === "label" && state.view === "single";
  document.documentElement.classList.toggle("one-by-one", oneByOne);
  const content = oneByOne ? single.root : scenes[current];
  if (stage.firstChild !== content) stage.replaceChildren(content);
  if (state.round) seen.begin(marks.key);
  if (state.loaded) topbar.update(shown);
  rail.update(shown);
  byId("bar").hidden = current !== "label";
  if (current === "label") {
    bar.update(state);
    const room = window.innerHeight - stage.getBoundingClientRect().top - byId("bar").offsetHeight - 40;
    const images = shownImages(state);
    const total = state.prompt === null ? state.round.total : images.length;
    grid.show(images, lookOf, { total, height: Math.max(room, 320), size: state.size });
    grid.root.classList.toggle("confirming", state.confirming);
    if (oneByOne) {
      single.show(images, isUndecided, lookOf, { total, evaluation: isEvaluation(state) });
    }
    topbar.showSize(grid.tile ?? 160);
  } else if (current === "past") {
    past.update(state, window.innerHeight - 120);
    topbar.showSize(past.grid.tile ?? 160);
  } else training.update(shown);
  showNotices(notices, state, current, act);
  tellWhenReady(current, state);
  if (shownScene !== current || shownRound !== state.round?.round) changeScene(current, state);
  if (zoom.isOpen) zoom.update();
  if (focusDue && current === "label" && grid.active) {
    focusDue = false;
    requestAnimationFrame(refocus);
  }
}

let toldRound = null;

/** A round that became ready since the page was opened is told to those who look elsewhere. */
function tellWhenReady(current, state) {
  const ready = current === "label" && isDrawn(state.round) ? state.round.round : 0;
  if (toldRound !== null && ready > toldRound) tell(`Round ${ready} is ready.`);
  if (ready || toldRound === null) toldRound = Math.max(ready, toldRound ?? 0);
}

function changeScene(current, state) {
  const arrived = current === "label" && (shownScene !== "past" || shownRound !== state.round.round);
  const moved = shownScene !== null && shownScene !== current;
  shownScene = current;
  shownRound = state.round?.round;
  if (moved && current !== "label") window.scrollTo(0, 0); // a phone has scrolled far down by then
  if (current === "label" || current === "past") requestAnimationFrame(() => render(store.get()));
  if (!arrived) return;
  window.scrollTo(0, 0);
  marks.restart();
  if (zoom.isOpen) zoom.close();
  if (state.round.round > 1) announce(`Round ${state.round.round} begins`);
  focusDue = true;
}

/** The keyboard goes to the images, unless it is somewhere on purpose. */
function refocus() {
  const held = document.activeElement;
  const onPurpose = held && held !== document.body && held.closest(".rail, .topbar, .tile");
  if (single.root.isConnected && !document.querySelector("dialog[open]") && !onPurpose) return single.focus();
  if (document.querySelector("dialog[open]") || onPurpose) return;
  if (store.get().past === null && grid.active && grid.root.isConnected) grid.focus();
}

// ------------------------------------------------------------------------------------------- what comes back

function answered([letter], answer) {
  const { round, evaluator } = store.get();
  const current = letter.round === round?.round && letter.evaluator === evaluator;
  if (!current) return store.patch({});
  if (letter.kind === "submit") return store.patch((state) => ({ ...state, mine: { ...state.mine, submitted: true } }));
  return store.patch((state) => withMine(state, letter.round, answer.mine));
}

function refused(letters, error) {
  if (error.code === "already-submitted" && letters[0].kind === "submit") return answered(letters, {});
  marks.refused(letters);
  if (error.code === "answer-changed") return differs(error);
  toast(`Not stored: ${error.message}`, "error");
  return reload();
}

/** Another window has changed what this one was about to submit: it shows what is stored, and where that differs. */
async function differs(error) {
  const before = marks.now();
  toast(error.message, "error");
  await reload();
  const after = marks.now();
  const isOther = (id) => before.marks[id] !== after.marks[id] || before.best.has(id) !== after.best.has(id);
  requestAnimationFrame(() => grid.flash(marks.ids().filter(isOther), "refused"));
}

function changedBack(ids, why) {
  store.patch({});
  queueMicrotask(() => {
    grid.flash(ids, why === "refused" ? "refused" : "flash");
    const [reopened] = ids.filter((id) => marks.ids().includes(id) && isUndecided(id));
    if (why !== "refused" && store.get().view === "single" && reopened) {
      single.ask(reopened);
      return store.patch({});
    }
    if (why !== "refused" && ids.length === 1 && grid.cells.has(ids[0]) && !zoom.isOpen) grid.focus(ids[0]);
  });
}

function sendingState({ away, waiting }) {
  const { connection } = store.get();
  if (away && connection === "online") live?.retry();
  store.patch({ unsent: waiting, connection: away && connection !== "expired" ? "away" : connection });
}

let reloads = 0;

/** Fetches the state anew; false when the server did not give it. */
async function reload() {
  const mine = ++reloads;
  try {
    const state = await getState(store.get().evaluator);
    if (mine !== reloads) return true;
    const old = store.get();
    if (old.desk && state.desk !== old.desk) {
      location.reload(); // another run is served here now
      return true;
    }
    if (state.last_event < old.last_event) return reload(); // older than what the stream has told since
    const suggestions = old.loaded ? old.suggestions : read("suggestions") === state.desk;
    const own = { suggestions, evaluator: old.evaluator, loaded: true, connection: "online" };
    store.patch((now) => ({ ...now, ...state, ...own }));
    if (!old.loaded) marks.restart();
    outbox.restore(state.desk ?? state.run?.name ?? "run");
    return true;
  } catch (error) {
    const refused = error instanceof ApiError && [401, 403].includes(error.status);
    store.patch({ connection: refused ? "expired" : "away" });
    return false;
  }
}

let live = null;

async function start() {
  store.subscribe(render);
  watchPictures();
  listenToKeys(place, act);
  new ResizeObserver(() => render(store.get())).observe(stage);
  while (!(await reload())) await new Promise((resolve) => setTimeout(resolve, 1000));
  let first = true;
  live = listen({
    after: () => store.get().last_event,
    evaluator: () => store.get().evaluator,
    onOpen: async () => {
      if (!first) await reload();
      first = false;
      store.patch({ connection: "online" });
      outbox.flush();
      retryPictures();
    },
    onLost: () => {
      if (store.get().connection !== "expired") store.patch({ connection: "away" });
      reload(); // which finds out whether the server is away, or is another one, with another token
    },
    onEvent: (kind, event) => {
      if (kind === "evaluators") store.patch({ evaluators: event.evaluators });
      else if (kind === "mine") store.patch((state) => withMine(state, event.round, event.mine));
      else {
        store.patch((state) => fold(state, event));
        if (kind === "command" && event.body.message) toast(event.body.message, event.body.done ? "info" : "error");
      }
    },
  });
  if (store.get().run?.evaluators > 1 && !remembered) act.rename();
}

function place() {
  if (zoom.isOpen) return "zoom";
  const { confirming } = store.get();
  const current = document.documentElement.dataset.scene;
  if (current === "label" && store.get().view === "single" && !confirming) return "single";
  if (current === "label") return confirming ? "confirm" : "label";
  if (["training", "end"].includes(current) && canReopen(store.get())) return "sent";
  return current === "past" ? "look" : "other";
}

start();
