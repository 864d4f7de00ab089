// The page: joins the stream of events, the marks and the parts that show them.

import { ApiError, getState, postCommand } from "./api.js";
import { Bar } from "./bar.js";
import { askName, askRounds, askStop, NAME, showHelp } from "./dialogs.js";
import { announce, count, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { listenToKeys } from "./keys.js";
import { listen } from "./live.js";
import { Marks } from "./marks.js";
import { applyTheme, read, write } from "./memory.js";
import { showNotices } from "./notices.js";
import { suggestedOrder } from "./order.js";
import { Outbox } from "./outbox.js";
import { Past } from "./past.js";
import { retryPictures, watchPictures } from "./pictures.js";
import { Rail } from "./rail.js";
import { createStore, fold, INITIAL, isDrawn, isEvaluation, scene, severalPrompts } from "./state.js";
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
    suggestions: read("suggestions") ?? false,
  },
);
const outbox = new Outbox({ onAnswer: answered, onRefused: refused, onState: sendingState });
const marks = new Marks(store, outbox, changedBack);
const stage = byId("stage");
const notices = byId("notices");

// ------------------------------------------------------------------------------------------- what is done

const act = {
  good: (id = grid.active) => marked(id, () => marks.toggleGood(id)),
  best: (id = grid.active) => !isEvaluation(store.get()) && marked(id, () => marks.toggleBest(id)),
  keep: (id) => {
    const kept = store.get().round.best.filter((image) => image.id === (id ?? image.id));
    const replaced = kept.filter((image) => !marks.kept().includes(image));
    for (const image of replaced) change(() => marks.keep(image.id));
    if (replaced.length) announce("The earlier best stays");
  },
  all: () => change(() => marks.all()),
  none: () => change(() => marks.none()),
  undo: () => change(() => marks.undo()),
  redo: () => change(() => marks.redo()),
  move: (key) => activeGrid().move(key),
  zoom: () => openZoom(activeGrid().active),
  step: (by) => zoom.step(by),
  zoomGood: () => zoom.mark("toggle"),
  zoomBest: () => zoom.mark("best"),
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
    store.patch({ past: wanted });
    stage.scrollTop = 0;
  },
  suggest: () => {
    const suggestions = !store.get().suggestions;
    write("suggestions", suggestions || null);
    order.forget();
    store.patch({ suggestions });
    if (suggestions && !store.get().round?.suggestions) toast("Suggestions come as soon as the run has made them.");
  },
  size: (size) => {
    write("size", size);
    store.patch({ size });
  },
  reveal: () => store.patch({ revealed: !store.get().revealed }),
  theme: () => {
    const dark = read("theme") ? read("theme") === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    applyTheme(dark ? "light" : "dark");
  },
  help: () => showHelp(isEvaluation(store.get())).then(refocus),
  rename: async () => {
    const { evaluator, evaluators } = store.get();
    const name = await askName(
      read("evaluator") ?? (evaluator === "me" ? "" : evaluator),
      evaluators.map((person) => person.name),
    );
    if (name) {
      write("evaluator", name);
      store.patch({ evaluator: name, mine: INITIAL.mine });
      marks.restart();
      await reload();
    }
    refocus();
  },
  stop: async () => {
    if (await askStop(store.get().run.name)) act.command("stop");
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
  announce(`${look.best ? "Best" : look.verdict === "good" ? "Good" : "Not good"}. ${good} good`);
}

// ------------------------------------------------------------------------------------------- parts

const order = suggestedOrder((state) => outbox.letters.length > 0 || Object.keys(state.mine.marks).length > 0);
const grid = new Grid("Images of this round", { toggle: act.good, best: act.best, zoom: openZoom });
const zoom = new Zoom({ onClose: (id) => (activeGrid().cells.has(id) ? activeGrid().focus(id) : refocus()) });
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
  const suggestion = !(id in view.marks) && marks.suggestions[id];
  return {
    verdict: marks.verdict(id, view),
    best: view.best.has(id),
    suggested: suggestion ? suggestion.verdict : null,
    unsent: store.get().connection === "away" && view.unsent.has(id),
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
    { toggle: act.good, best: isEvaluation(store.get()) ? null : act.best },
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
  if (stage.firstChild !== scenes[current]) stage.replaceChildren(scenes[current]);
  if (state.loaded) topbar.update(shown);
  rail.update(shown);
  byId("bar").hidden = current !== "label";
  if (current === "label") {
    bar.update(state);
    const room = window.innerHeight - stage.getBoundingClientRect().top - byId("bar").offsetHeight - 40;
    grid.show(order.of(state), lookOf, { total: state.round.total, height: Math.max(room, 320), size: state.size });
    grid.root.classList.toggle("confirming", state.confirming);
    topbar.showSize(grid.tile ?? 160);
  } else if (current === "past") {
    past.update(state, window.innerHeight - 120);
    topbar.showSize(past.grid.tile ?? 160);
  } else training.update(shown);
  showNotices(notices, state, current, act);
  if (shownScene !== current || shownRound !== state.round?.round) changeScene(current, state);
  if (zoom.isOpen) zoom.update();
  if (focusDue && current === "label" && grid.active) {
    focusDue = false;
    requestAnimationFrame(refocus);
  }
}

function changeScene(current, state) {
  const arrived = current === "label" && (shownScene !== "past" || shownRound !== state.round.round);
  shownScene = current;
  shownRound = state.round?.round;
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
  if (document.querySelector("dialog[open]") || onPurpose) return;
  if (store.get().past === null && grid.active && grid.root.isConnected) grid.focus();
}

// ------------------------------------------------------------------------------------------- what comes back

function answered([letter], answer) {
  const { round, evaluator } = store.get();
  const current = letter.round === round?.round && letter.evaluator === evaluator;
  if (!current) return store.patch({});
  if (letter.kind === "submit") return store.patch((state) => ({ ...state, mine: { ...state.mine, submitted: true } }));
  return store.patch((state) => ({ ...state, mine: { ...state.mine, ...answer.mine } }));
}

function refused(letters, error) {
  if (error.code === "already-submitted" && letters[0].kind === "submit") return answered(letters, {});
  marks.refused(letters);
  toast(`Not stored: ${error.message}`, "error");
  return reload();
}

function changedBack(ids, why) {
  store.patch({});
  queueMicrotask(() => {
    grid.flash(ids, why === "refused" ? "refused" : "flash");
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
    store.patch((old) => ({ ...old, ...state, evaluator: old.evaluator, loaded: true, connection: "online" }));
    outbox.restore(state.desk ?? state.run?.name ?? "run");
    return true;
  } catch (error) {
    store.patch({ connection: error instanceof ApiError && error.status === 401 ? "expired" : "away", loaded: true });
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
    onOpen: async () => {
      if (!first) await reload();
      first = false;
      store.patch({ connection: "online" });
      outbox.flush();
      retryPictures();
    },
    onLost: () => store.patch({ connection: "away" }),
    onEvent: (kind, event) => {
      if (kind === "evaluators") store.patch({ evaluators: event.evaluators });
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
  if (current === "label") return confirming ? "confirm" : "label";
  return current === "past" ? "look" : "other";
}

start();
