// The good share over rounds, drawn as a small SVG.

const NS = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const share = (stats) => (stats.good + stats.bad ? stats.good / (stats.good + stats.bad) : 0);
const percent = (value) => `${Math.round(value * 100)} %`;

/** @param learned figures of the rounds; rounds: how many there will be; size: "small" or "large". */
export function shareChart(learned, rounds, size) {
  const [width, height, left, bottom] = size === "large" ? [640, 200, 40, 26] : [240, 68, 0, 4];
  const top = size === "large" ? 18 : 16;
  const right = size === "large" ? 20 : 24;
  const last = Math.max(rounds, ...learned.map((stats) => stats.round), 2);
  const x = (round) => left + 6 + ((round - 1) / (last - 1)) * (width - left - right - 6);
  const y = (value) => top + (1 - value) * (height - top - bottom);
  const points = learned.map((stats) => [x(stats.round), y(share(stats))]);
  const words = learned.map((stats) => `round ${stats.round}: ${percent(share(stats))}`).join(", ");
  const chart = s(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      class: `chart ${size}`,
      role: "img",
      "aria-label": `Share of good images. ${words}`,
    },
  );
  for (const value of size === "large" ? [0, 0.5, 1] : [0, 1]) {
    chart.append(
      s("line", { x1: left, x2: width - (size === "large" ? right : 0), y1: y(value), y2: y(value), class: "rule" }),
    );
    if (size === "large") chart.append(s("text", { x: left - 8, y: y(value) + 4, class: "tick end" }, percent(value)));
  }
  if (size === "large") {
    const step = Math.ceil(last / 10);
    for (let round = 1; round <= last; round += step) chart.append(
      s("text", { x: x(round), y: height - 6, class: "tick middle" }, String(round)),
    );
  }
  if (points.length > 1) chart.append(
    s("polyline", { points: points.map((point) => point.join()).join(" "), class: "line" }),
  );
  points.forEach(([cx, cy], at) => {
    const end = at === points.length - 1;
    const dot = s("circle", { cx, cy, r: end ? 4.5 : 3, class: end ? "dot last" : "dot" });
    dot.append(
      s("title", {}, `Round ${learned[at].round}: ${learned[at].good} of ${learned[at].good + learned[at].bad} good`),
    );
    chart.append(dot);
    if (end || (size === "large" && learned.length <= 10)) {
      const edge = cx > width - 40 ? "end" : at === 0 ? "start" : "middle";
      chart.append(
        s(
          "text",
          {
            x: edge === "end" ? width - 1 : edge === "start" ? cx - 5 : cx,
            y: cy < top + 4 ? cy + 18 : cy - 9,
            class: `value ${edge}`,
          },
          percent(share(learned[at])),
        ),
      );
    }
  });
  return chart;
}
