"use strict";
// The slider over accuracy: where each policy ends, and how reward paid and true reward ran on its way there.

PARADOX.kinds.slider = (root, data) => {
  const { html, live } = PARADOX;
  const panels = html("div", { class: "panels" });
  const said = live();
  const legend = html(
    "p",
    { class: "legend" },
    html("span", { class: "key spot" }, "a run"),
    html("span", { class: "key ring" }, "the most accurate reward model of its training"),
  );
  root.append(said, panels, legend);
  let show = () => {};
  const draw = (group, index) => {
    const width = PARADOX.columns(root, 2, 300);
    panels.replaceChildren(
      PARADOX.slider.ends(group, index, width, data.accuracy, (chosen) => show(chosen)),
      PARADOX.slider.way(group, index, width),
    );
    said.replaceChildren(...PARADOX.slider.words(group, group.runs[index]));
  };
  show = PARADOX.chooser(root, data.groups, (group) => group.runs, (run) => `accuracy ${PARADOX.fixed(run.accuracy, 3)}, ${run.name}`, draw);
};

PARADOX.slider = {};

// Accuracy against the performance of the policy after PPO: a dot a run, the chosen one's trajectory joined.
PARADOX.slider.ends = (group, index, width, accuracy, choose) => {
  const { svg, fixed, extent } = PARADOX;
  const { runs, before } = group;
  const chosen = runs[index];
  const x = extent(runs.map((run) => run.accuracy));
  const y = extent([before, ...runs.map((run) => run.end)], 0.08);
  const { node, X, Y, left, right } = PARADOX.panel({ width, height: 290, x, y, across: accuracy, up: group.performance });
  node.append(svg("line", { class: "before", x1: left, x2: right, y1: Y(before), y2: Y(before) }));
  const own = runs.filter((run) => run.seed === chosen.seed);
  node.append(svg("path", { class: "own", d: PARADOX.line(own.map((run) => [X(run.accuracy), Y(run.end)])) }));
  for (const run of runs) {
    const kind = run === chosen ? "dot chosen" : run.seed === chosen.seed ? "dot own" : "dot";
    const at = { cx: X(run.accuracy), cy: Y(run.end) };
    if (run.top) node.append(svg("circle", { class: "ring", r: 8, ...at }));
    node.append(svg("circle", { class: kind, r: run === chosen ? 6 : 4, ...at }));
  }
  node.append(svg("text", { class: "note", x: left + 4, y: Y(before) - 5 }, `before PPO ${fixed(before)}`));
  const worse = runs.filter((run) => run.top && run.end < before);
  for (const { accuracy, end } of worse) {
    const side = X(accuracy) > (left + right) / 2 ? ["end", -12] : ["start", 12];
    const at = { x: X(accuracy) + side[1], y: Y(end) + 4, "text-anchor": side[0] };
    node.append(svg("text", { class: "note", ...at }, "most accurate, made its policy worse"));
  }
  node.setAttribute("aria-label", `Accuracy and performance of ${runs.length} runs; the chosen one ends at ${fixed(chosen.end)}.`);
  PARADOX.touchable(node, runs.map((run) => [X(run.accuracy), Y(run.end)]), choose);
  return node;
};

// Reward paid and true reward of a response along training, named at their ends.
PARADOX.slider.way = (group, index, width) => {
  const { svg, signed, extent } = PARADOX;
  const run = group.runs[index];
  const longest = Math.max(...group.runs.map((one) => one.paid.length)) - 1;
  const y = extent(group.runs.flatMap((one) => [...one.paid, ...one.true]));
  const names = { across: "PPO update", up: "reward of a response" };
  const { node, X, Y, left, right } = PARADOX.panel({ width, height: 290, x: [0, Math.max(longest, 1)], y, right: 92, ...names });
  if (group.worth !== null) {
    node.append(svg("line", { class: "before", x1: left, x2: right, y1: Y(group.worth), y2: Y(group.worth) }));
    node.append(svg("text", { class: "note", x: right + 6, y: Y(group.worth) + 4 }, "before PPO"));
  }
  const lines = [["paid", "paid"], ["true", "true"]].filter(([key]) => run[key].length);
  const ends = lines.map(([key]) => Y(run[key].at(-1)));
  for (const [place, [key, word]] of lines.entries()) {
    const points = run[key].map((value, update) => [X(update), Y(value)]);
    node.append(svg("path", { class: `way ${key}`, d: PARADOX.line(points) }));
    node.append(svg("circle", { class: `end ${key}`, r: 3.5, cx: points.at(-1)[0], cy: points.at(-1)[1] }));
    const away = ends.length > 1 && Math.abs(ends[0] - ends[1]) < 15 ? (15 - Math.abs(ends[0] - ends[1])) / 2 : 0;
    const side = ends[place] < ends[1 - place] || (ends[0] === ends[1] && place === 0) ? -1 : 1;
    const at = { x: points.at(-1)[0] + 7, y: ends[place] + 4 + side * away };
    node.append(svg("text", { class: `named ${key}`, ...at }, `${word} ${signed(run[key].at(-1))}`));
  }
  node.setAttribute("aria-label", "Reward paid and true reward of a response along training.");
  return node;
};

PARADOX.slider.words = (group, run) => {
  const { html, fixed, signed } = PARADOX;
  const top = run.top ? ", the most accurate of its training" : "";
  const rise = run.end > group.before ? "better than" : run.end < group.before ? "worse than" : "as good as";
  const end = run.paid.length ? ` At the end (averaged over the last updates) the reward model pays ${signed(run.paid.at(-1))} for a response` : "";
  const worth = run.true.length ? `; it is worth ${signed(run.true.at(-1))}` : "";
  return [
    html("strong", {}, `Accuracy ${fixed(run.accuracy, 3)}`),
    ` (${run.name}${top}): LM performance ${fixed(group.before)} → ${fixed(run.end)}, ${rise} before PPO.${end}${worth}${end && "."}`,
  ];
};
