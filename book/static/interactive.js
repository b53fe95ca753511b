"use strict";
// What all interactives of the book share: elements, numbers as text, scales and axes, controls, and how they start.
// Plain scripts in the order of _config.yml: the book is also read from a disk, where modules and `fetch` do not load.

const PARADOX = { kinds: {} };

// --- elements and words ---

PARADOX.fill = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
PARADOX.html = (name, attributes = {}, ...children) => PARADOX.fill(document.createElement(name), attributes, children);
PARADOX.svg = (name, attributes = {}, ...children) =>
  PARADOX.fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

// A number with so many decimals and a true minus; what rounds to zero has no sign.
PARADOX.fixed = (value, decimals = 2) => {
  const text = Math.abs(value).toFixed(decimals);
  return (value < 0 && Number(text) !== 0 ? "−" : "") + text;
};
PARADOX.signed = (value, decimals = 2) => {
  const text = PARADOX.fixed(value, decimals);
  return value > 0 && Number(text) !== 0 ? "+" + text : text;
};
PARADOX.capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
PARADOX.sum = (values) => values.reduce((total, value) => total + value, 0);

// --- scales and axes ---

PARADOX.scale = ([from, to], [start, end]) => (value) => start + ((value - from) / (to - from)) * (end - start);

// The range of some values with a margin, so that no mark sits on a frame; a single value has room too.
PARADOX.extent = (values, margin = 0.06) => {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low) * margin || 0.05;
  return [low - room, high + room];
};

// Round numbers in a range, about so many, with the decimals they need.
PARADOX.ticks = ([low, high], about = 4) => {
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => {
    const value = (first + i) * step;
    return { value, text: PARADOX.fixed(value, decimals) };
  });
};

// An SVG with a light grid and labelled axes, and the scales to draw in it. Sizes are CSS pixels, so text keeps its size on a phone.
PARADOX.panel = ({ width, height, x, y, across, up, right = 12, xTicks = PARADOX.ticks(x) }) => {
  const { svg, scale, ticks } = PARADOX;
  const left = 40;
  const top = 30;
  const bottom = height - 42;
  const X = scale(x, [left, width - right]);
  const Y = scale(y, [bottom, top]);
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  for (const { value, text } of ticks(y)) {
    node.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: Y(value), y2: Y(value) }));
    node.append(svg("text", { class: "tick", x: left - 6, y: Y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const { value, text } of xTicks) {
    node.append(svg("text", { class: "tick", x: X(value), y: bottom + 18, "text-anchor": "middle" }, text));
  }
  node.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: bottom, y2: bottom }));
  node.append(svg("text", { class: "name", x: 0, y: 12 }, up));
  node.append(svg("text", { class: "name", x: width - right, y: height - 6, "text-anchor": "end" }, across));
  return { node, X, Y, left, right: width - right };
};

PARADOX.line = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// Which of the points (pairs of pixels) is nearest to the pointer: marks are small, the place around them is not.
PARADOX.nearest = (event, node, points) => {
  const box = node.getBoundingClientRect();
  const zoom = node.viewBox.baseVal.width / box.width;
  const [x, y] = [(event.clientX - box.left) * zoom, (event.clientY - box.top) * zoom];
  const distances = points.map(([px, py]) => (px - x) ** 2 + (py - y) ** 2);
  return distances.indexOf(Math.min(...distances));
};

// Let a pointer over the SVG, or a finger on it, choose among its points.
PARADOX.touchable = (node, points, choose) => {
  node.classList.add("touchable");
  for (const kind of ["pointermove", "pointerdown"]) {
    node.addEventListener(kind, (event) => choose(PARADOX.nearest(event, node, points)));
  }
};

// --- controls ---

// One of a few, all in sight: radio buttons, which bring their keys with them.
PARADOX.pills = (legend, names, choose) => {
  const { html, capital } = PARADOX;
  const group = `choice-${(PARADOX.choices = (PARADOX.choices ?? 0) + 1)}`;
  const box = html("fieldset", { class: "pills" }, html("legend", {}, legend));
  for (const name of names) {
    const input = html("input", { type: "radio", name: group, value: name });
    input.checked = name === names[0];
    input.addEventListener("change", () => choose(name));
    box.append(html("label", {}, input, html("span", {}, legend === "task" ? capital(name) : name)));
  }
  return box;
};

PARADOX.select = (label, options, choose) => {
  const { html } = PARADOX;
  const box = html("select", {}, ...options.map((text, i) => html("option", { value: i }, text)));
  box.addEventListener("change", () => choose(Number(box.value)));
  return html("label", { class: "select" }, html("span", {}, label), box);
};

// Task, policy, and a slider over the reward models of the pair, from the least to the most accurate. `items` are those of a
// group; `name` stands at the handle and says one aloud; `draw(group, index)` shows it; it begins with the `first` of a group, else
// with the last. The figure is drawn again when its width changes.
PARADOX.chooser = (root, groups, items, name, draw, first = (group) => items(group).length - 1) => {
  const { html } = PARADOX;
  const controls = html("div", { class: "controls" });
  const range = html("input", { type: "range", min: 0, step: 1, "aria-label": "Reward model, from the least to the most accurate" });
  const at = html("span", { class: "at", "aria-hidden": "true" });
  const ends = html("span", { class: "ends", "aria-hidden": "true" }, html("span", {}, "least accurate"), html("span", {}, "most accurate"));
  let group = groups[0];
  let index = 0;
  const show = (chosen) => {
    index = chosen;
    range.value = index;
    at.textContent = name(items(group)[index]);
    at.style.setProperty("--at", `${(100 * index) / Math.max(1, range.max)}%`);
    range.setAttribute("aria-valuetext", at.textContent);
    draw(group, index);
  };
  const open = (chosen) => {
    group = chosen;
    range.max = items(group).length - 1;
    show(first(group));
  };
  for (const key of ["task", "policy"]) {
    const names = [...new Set(groups.map((one) => one[key]))];
    const other = key === "task" ? "policy" : "task";
    const pick = (value) => {
      const fitting = groups.filter((one) => one[key] === value);
      open(fitting.find((one) => one[other] === group[other]) ?? fitting[0]);
    };
    if (names.length > 1) controls.append(PARADOX.pills(key, names, pick));
  }
  controls.append(html("label", { class: "range" }, html("span", {}, "accuracy of the reward model"), at, range, ends));
  range.addEventListener("input", () => show(Number(range.value)));
  root.prepend(controls);
  open(group);
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    draw(group, index);
  }).observe(root);
  return show;
};

// The sentence that says what the figure shows; screen readers speak it when it changes.
PARADOX.live = () => PARADOX.html("p", { class: "said", "aria-live": "polite" });

// How wide each of some panels can be, side by side where there is room for it; a page that has no width yet is drawn again.
PARADOX.columns = (root, count, least = 250, gap = 24) => {
  const fitting = Math.max(1, Math.min(count, Math.floor((root.clientWidth + gap) / (least + gap))));
  return Math.max(160, Math.floor((root.clientWidth - gap * (fitting - 1)) / fitting));
};

// --- start ---

document.addEventListener("DOMContentLoaded", () => {
  for (const root of document.querySelectorAll(".interactive")) {
    const build = PARADOX.kinds[root.dataset.kind];
    if (!build) continue; // its own words stand there
    const data = root.querySelector('script[type="application/json"]');
    root.replaceChildren();
    build(root, data && JSON.parse(data.textContent));
  }
});
