// What can be taken along: the LoRA in each layout, the fused model, labels, report, figures and settings.

import { h } from "../../page/js/dom.js";
import { exportAs, exportUrl, fileUrl, reportUrl, stopJob } from "./api.js";
import { tried } from "./deeds.js";
import { bytes } from "./words.js";

const MADE = [
  ["kohya", "LoRA for ComfyUI and A1111", "One file in kohya's layout, with its model card and preview."],
  ["diffusers", "LoRA for diffusers, with its card", "A folder, as the Hub wants it."],
  ["fused", "The whole model, LoRA fused in", "A pipeline folder; as large as the model itself."],
  ["labels", "Labels, with their images", "JSON lines, which hero feedback import reads."],
  ["report", "Report", "One HTML file that opens anywhere, with figures, pictures and settings."],
];
const AS_IT_IS = [
  ["lora", "LoRA for diffusers"],
  ["metrics", "Figures of each round"],
  ["settings", "Settings"],
];

export function downloads(run) {
  if (!run.history.length) return [];
  const plain = AS_IT_IS.filter(([kind]) => run.files.includes(kind)).map(([kind, words]) =>
    h("a", { class: "plain-button outlined as-button", href: fileUrl(run.name, kind), download: true }, words),
  );
  return [
    h(
      "div",
      { class: "card downloads" },
      h("h2", {}, "Take it along"),
      h("ul", { class: "exports" }, ...MADE.map((one) => row(run, one))),
      h("div", { class: "buttons" }, ...plain),
      h("p", { class: "hint where" }, "On this machine: ", h("code", {}, run.path)),
    ),
  ];
}

function row(run, [kind, words, about]) {
  const made = run.exports[kind];
  const current = made?.standing === "done" && made.labels === run.labels;
  const make = () => tried(() => exportAs(run.name, kind));
  const button = (text) =>
    h(
      "button",
      { type: "button", class: "plain-button outlined", "aria-label": `${text}: ${words}`, on: { click: make } },
      text,
    );
  const found = [];
  if (kind === "report" && run.files.includes("report"))
    found.push(
      h(
        "a",
        { class: "plain-button outlined as-button", href: reportUrl(run.name), target: "_blank", rel: "noopener" },
        "Open",
      ),
      h("a", { class: "plain-button as-button", href: fileUrl(run.name, "report"), download: true }, "Download"),
    );
  if (made?.standing === "running")
    found.push(
      h("span", { role: "status" }, "Being made…"),
      h(
        "button",
        {
          type: "button",
          class: "plain-button",
          on: { click: () => tried(() => stopJob(run.name, `exports/${kind}`)) },
        },
        "Stop",
      ),
    );
  else {
    if (made?.standing === "done" && kind !== "report") found.push(...links(run, kind, made));
    if (!current || (kind === "report" && !run.files.includes("report")))
      found.push(
        button(made?.standing === "done" || (kind === "report" && run.files.includes("report")) ? "Make anew" : "Make"),
      );
  }
  const failed =
    made && ["failed", "killed"].includes(made.standing) ? h("p", { class: "problem" }, made.message) : null;
  const aged = made?.standing === "done" && !current ? ` Made at ${made.labels} labels.` : "";
  return h(
    "li",
    {},
    h("div", {}, h("h3", {}, words), h("p", { class: "hint" }, `${about}${aged}`), failed),
    h("div", { class: "export-do" }, ...found),
  );
}

function links(run, kind, made) {
  const single = made.files.find((file) => file.name.endsWith(".safetensors"));
  const all = h(
    "a",
    { class: "plain-button as-button", href: exportUrl(run.name, kind, "all.zip"), download: true },
    kind === "kohya" ? "All as .zip" : "Download .zip",
  );
  if (kind !== "kohya" || !single) return [all];
  return [
    h(
      "a",
      { class: "plain-button outlined as-button", href: exportUrl(run.name, kind, single.name), download: true },
      `Download (${bytes(single.bytes)})`,
    ),
    all,
  ];
}
