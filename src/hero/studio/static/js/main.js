// The page: which view is shown, and what keeps it current.

import { announce, h, iconButton } from "../../page/js/dom.js";
import { applyTheme, read } from "../../page/js/memory.js";
import { Away, getOptions, getRuns, listen } from "./api.js";
import { NewRun } from "./form.js";
import { List } from "./list.js";
import { RunView } from "./run.js";
import { doing } from "./words.js";

applyTheme(read("theme") ?? "auto");

const head = document.getElementById("head");
const root = document.getElementById("view");
const THEMES = ["auto", "light", "dark"];

const folder = h("span", { class: "folder" });
const away = h(
  "p",
  { class: "notice away", role: "status", hidden: true },
  "The studio is away. What runs goes on; this page comes back by itself.",
);
head.append(
  h("a", { class: "brand", href: "#/" }, h("span", { class: "wordmark" }, "hero"), h("span", {}, "studio")),
  folder,
  h(
    "nav",
    { "aria-label": "Studio" },
    h("a", { class: "primary as-button", href: "#/new", id: "new" }, "New run"),
    iconButton("theme", "Light or dark", () => {
      const next = THEMES[(THEMES.indexOf(read("theme") ?? "auto") + 1) % THEMES.length];
      applyTheme(next);
      announce(`Colours: ${next === "auto" ? "as the system has them" : next}`);
    }),
  ),
);
head.after(away);

let options = null;
let latest = { runs: [], waiting: [] };
let view = null;
let loading = null;
let again = false;
const before = new Map();

/** Fetches what has changed; calls that come while it does are answered by one more. */
async function refresh() {
  if (loading) {
    again = true;
    return loading;
  }
  loading = (async () => {
    do {
      again = false;
      try {
        latest = await getRuns();
        showAway(false);
        await view?.update(latest);
        tell(latest.runs);
      } catch (error) {
        if (error instanceof Away) showAway(true);
        else throw error;
      }
    } while (again);
  })();
  await loading.finally(() => (loading = null));
}

/** Says aloud, and in the tab, what has come to wait for a person. */
function tell(runs) {
  for (const run of runs) {
    const what = run.doing.what;
    if (before.has(run.name) && before.get(run.name) !== what) announce(`${run.name}: ${doing(run)}`);
    before.set(run.name, what);
  }
  const waiting = runs.filter((run) => run.doing.what === "waiting").length;
  document.title = `${waiting ? `(${waiting}) ` : ""}${view?.title ?? "hero studio"}`;
}

function showAway(is) {
  away.hidden = !is;
}

async function route() {
  const [, kind = "", rest = ""] = location.hash.split("/");
  const name = decodeURIComponent(rest);
  view?.leave?.();
  root.replaceChildren();
  root.className = `view view-${kind || "list"}`;
  document.getElementById("new").hidden = kind === "new";
  options ??= await getOptions();
  folder.textContent = options.root;
  folder.title = options.root;
  if (kind === "new") view = new NewRun(root, options, name || null, latest);
  else if (kind === "run") view = new RunView(root, name);
  else view = new List(root);
  view.title ??= "hero studio";
  window.scrollTo(0, 0);
  await refresh();
}

window.addEventListener("hashchange", () => route().catch(failed));
route().then(() => listen(() => refresh().catch(failed), showAway), failed);

function failed(error) {
  if (error instanceof Away) showAway(true);
  else root.replaceChildren(h("p", { class: "plain", role: "alert" }, error.message));
}
