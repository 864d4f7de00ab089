// Shares over labels as a small SVG: lines with their intervals.

import { percent } from "./words.js";

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 220, 58, 18, 14, 30];

function s(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** @param lines [{name, className, points: [{labels, value, low, high, title}]}]; values are shares. */
export function curve(lines) {
  const labels = lines.flatMap((line) => line.points.map((point) => point.labels));
  const last = Math.max(...labels, 1);
  const x = (value) => LEFT + (value / last) * (WIDTH - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const words = lines.map(
    (line) =>
      `${line.name}: ${line.points.map((point) => `${percent(point.value)} at ${point.labels} labels`).join(", ")}`,
  );
  const chart = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    class: "chart curve",
    role: "img",
    "aria-label": words.join(". "),
  });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(
      s("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share), class: "rule" }),
      s("text", { x: LEFT - 8, y: y(share) + 4, class: "end" }, percent(share)),
    );
  }
  const ticks = [...new Set(lines[0].points.map((point) => point.labels))];
  const step = Math.ceil(ticks.length / 8);
  ticks.forEach((value, at) => {
    if (at % step === 0 || at === ticks.length - 1)
      chart.append(s("text", { x: x(value), y: HEIGHT - 8, class: "middle" }, String(value)));
  });
  for (const { points, className } of lines) {
    const banded = points.filter((point) => point.low !== undefined);
    if (banded.length > 1) {
      const edge = [
        ...banded.map((point) => [x(point.labels), y(point.high)]),
        ...banded.reverse().map((point) => [x(point.labels), y(point.low)]),
      ];
      chart.append(s("polygon", { points: edge.map((one) => one.join()).join(" "), class: `band ${className}` }));
    }
    chart.append(
      s("polyline", {
        points: points.map((point) => `${x(point.labels)},${y(point.value)}`).join(" "),
        class: `line ${className}`,
      }),
    );
    for (const point of points) {
      const dot = s("circle", { cx: x(point.labels), cy: y(point.value), r: 3.5, class: `dot ${className}` });
      dot.append(s("title", {}, point.title));
      chart.append(dot);
    }
  }
  return chart;
}
