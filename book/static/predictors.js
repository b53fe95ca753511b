"use strict";
// The axis picker: what is known of reward models on the one axis, how much their policies gained on the other.

PARADOX.kinds.predictors = (root, data) => {
  const { html, live, predictors } = PARADOX;
  const panels = html("div", { class: "panels" });
  const said = live();
  let measure = 0;
  let shown = [];
  let show = () => {};
  const draw = (group, index) => {
    shown = [group, index];
    const width = PARADOX.columns(root, 1);
    panels.replaceChildren(predictors.panel(group, index, data.measures[measure], measure, width, (one) => show(one)));
    said.replaceChildren(...predictors.words(group, index, data.measures[measure], measure));
  };
  const choose = (chosen) => {
    measure = chosen;
    draw(...shown);
  };
  root.append(PARADOX.select("what is known of a reward model", data.measures, choose), said, panels);
  show = PARADOX.chooser(root, data.groups, (group) => group.models, (model) => `accuracy ${PARADOX.fixed(model.accuracy, 3)}, ${model.name}`, draw);
};

PARADOX.predictors = {};

PARADOX.predictors.panel = (group, index, name, measure, width, choose) => {
  const { svg, extent } = PARADOX;
  const measured = group.models.filter((model) => model.known[measure] !== null);
  const x = extent(measured.length ? measured.map((model) => model.known[measure]) : [0]);
  const y = extent([0, ...group.models.map((model) => model.gain)]);
  const names = { across: name, up: "gain in LM performance" };
  const { node, X, Y, left, right } = PARADOX.panel({ width, height: 320, x, y, ...names });
  node.append(svg("line", { class: "before", x1: left, x2: right, y1: Y(0), y2: Y(0) }));
  node.append(svg("text", { class: "note", x: left + 4, y: Y(0) - 5 }, "before PPO"));
  const chosen = group.models[index];
  for (const model of [...measured.filter((one) => one !== chosen), ...measured.filter((one) => one === chosen)]) {
    const at = { cx: X(model.known[measure]), cy: Y(model.gain) };
    node.append(svg("circle", { class: model === chosen ? "dot chosen" : "dot", r: model === chosen ? 6 : 4, ...at }));
  }
  node.setAttribute("aria-label", `Gain in LM performance by ${name}, of ${measured.length} reward models.`);
  const places = measured.map((model) => [X(model.known[measure]), Y(model.gain)]);
  if (places.length) PARADOX.touchable(node, places, (place) => choose(group.models.indexOf(measured[place])));
  return node;
};

PARADOX.predictors.words = (group, index, name, measure) => {
  const { html, fixed, signed } = PARADOX;
  const { accuracy, name: called, known, gain } = group.models[index];
  const value = known[measure] === null ? "not measured" : fixed(known[measure], 3);
  const together = group.correlations[measure];
  const over = together === null ? "" : ` Over all of them the two correlate by ${signed(together)} (Spearman).`;
  return [html("strong", {}, `Accuracy ${fixed(accuracy, 3)}`), ` (${called}): ${name} ${value}, gain ${signed(gain)}.${over}`];
};
