"use strict";
// The published points: one task's reward models, chosen by accuracy, in the panels of all three policies at once.

PARADOX.kinds.points = (root, data) => {
  const { html, live } = PARADOX;
  const panels = html("div", { class: "panels" });
  const said = live();
  const bars = PARADOX.sum(data.groups.flatMap((group) => group.panels.map((panel) => panel.thirds.length)));
  const legend = html(
    "p",
    { class: "legend" },
    html("span", { class: "key spot" }, "LM performance with one reward model"),
    html("span", { class: "key ring" }, "the most accurate"),
    html("span", { class: "key mean" }, "mean of a third by accuracy"),
    html("span", { class: "key band" }, `where all ${bars} means would lie in 95% of cases if accuracy did not matter`),
  );
  root.append(said, panels, legend);
  let show = () => {};
  const draw = (group, index) => {
    const width = PARADOX.columns(root, group.panels.length, 200, 16);
    panels.replaceChildren(...group.panels.map((panel) => PARADOX.points.panel(group, panel, index, width, (one) => show(one))));
    said.replaceChildren(...PARADOX.points.words(group, index));
  };
  const name = (model) => `accuracy ${PARADOX.fixed(model.accuracy, 3)}, step ${model.step}`;
  show = PARADOX.chooser(root, data.groups, (group) => group.models, name, draw);
};

PARADOX.points = {};

// The place of a value among all, from the largest; equal values share the best place.
PARADOX.points.rank = (value, values) => 1 + values.filter((other) => other > value).length;

// Along the axis the reward models stand in their order: most accuracies are so close that on their own scale they would hide each
// other. What each third spans is written below it.
PARADOX.points.panel = (group, { policy, values, thirds }, index, width, choose) => {
  const { svg, fixed, extent, points } = PARADOX;
  const most = Math.max(...group.models.map((model) => model.accuracy));
  const x = [-0.7, values.length - 0.3];
  const y = extent([...values, ...thirds.flatMap((third) => [third.low, third.high])]);
  const names = { across: "accuracies of each third", up: policy };
  const { node, X, Y, right } = PARADOX.panel({ width, height: 270, x, xTicks: [], y, ...names });
  let first = 0;
  for (const { models, from, to, mean, low, high } of thirds) {
    const [start, end] = [X(first - 0.42), X(first + models - 0.58)];
    const span = `${fixed(from)}–${fixed(to)}`;
    node.append(
      svg("rect", { class: "band", x: start, width: end - start, y: Y(high), height: Y(low) - Y(high) }),
      svg("line", { class: "mean", x1: start, x2: end, y1: Y(mean), y2: Y(mean) }),
      svg("text", { class: "tick narrow", x: (start + end) / 2, y: 270 - 24, "text-anchor": "middle" }, span),
    );
    first += models;
  }
  const places = values.map((value, i) => [X(i), Y(value)]);
  for (const [i, [cx, cy]] of places.entries()) {
    if (group.models[i].accuracy === most) node.append(svg("circle", { class: "ring", r: 7, cx, cy }));
    if (i !== index) node.append(svg("circle", { class: "dot", r: 3.5, cx, cy }));
  }
  const [cx, cy] = places[index];
  node.append(svg("circle", { class: "dot chosen", r: 5.5, cx, cy })); // on top
  const result = `${fixed(values[index])}, rank ${points.rank(values[index], values)}`;
  node.append(svg("text", { class: "named true", x: right, y: 12, "text-anchor": "end" }, result));
  node.setAttribute("aria-label", `${policy}: LM performance of ${values.length} reward models in order of accuracy.`);
  PARADOX.touchable(node, places, choose);
  return node;
};

PARADOX.points.words = (group, index) => {
  const { html, fixed } = PARADOX;
  const { accuracy, step } = group.models[index];
  const place = PARADOX.points.rank(accuracy, group.models.map((model) => model.accuracy));
  const results = group.panels.map(
    ({ policy, values }) => `${policy} ${fixed(values[index])} (rank ${PARADOX.points.rank(values[index], values)})`,
  );
  const what = place === 1 ? "the most accurate" : `rank ${place} by accuracy`;
  return [
    html("strong", {}, `Accuracy ${fixed(accuracy, 3)}`),
    ` (step ${step}; ${what} of ${group.models.length}). LM performance: ${results.join(", ")}. Rank 1 is best.`,
  ];
};
