"use strict";
// The explorer: one answer before and after PPO. The background of a segment is the truth, its underline what the reward model pays.

PARADOX.kinds.explorer = (root, data) => {
  const { html, live, explorer } = PARADOX;
  const panels = html("div", { class: "panels answers" });
  const said = live();
  const legend = html("p", { class: "legend" });
  let question = 0;
  let shown = [];
  const draw = (group, index) => {
    shown = [group, index];
    const run = group.runs[index];
    const sides = { "Before PPO": run.before[question], "After PPO": run.after[question] };
    const answers = Object.values(sides).map((side) => side && { ...data.texts[side[0]], paid: side[1] });
    panels.replaceChildren(...Object.keys(sides).map((title, i) => explorer.side(title, answers[i], group)));
    said.replaceChildren(...explorer.words(group, run, answers));
    legend.replaceChildren(...explorer.legend(group));
  };
  const choose = (chosen) => {
    question = chosen;
    draw(...shown);
  };
  const asked = PARADOX.select("question", data.questions.map((text, i) => `${i + 1}. ${text}`), choose);
  root.append(asked, said, panels, legend);
  const name = (run) => `accuracy ${PARADOX.fixed(run.accuracy, 3)}, ${run.name}`;
  PARADOX.chooser(root, data.groups, (group) => group.runs, name, draw, (group) => group.start);
};

PARADOX.explorer = {};

// The segments of an answer: text, truth and payment of each.
PARADOX.explorer.segments = ({ text, ends, judged, paid }) =>
  ends.map((end, i) => ({ text: text.slice(i ? ends[i - 1] : 0, end), judged: judged[i], paid: paid[i] }));

PARADOX.explorer.side = (title, answer, group) => {
  const { html, explorer } = PARADOX;
  const body = html("p", { class: "answer" });
  if (answer && answer.ends.length) {
    for (const segment of explorer.segments(answer)) body.append(explorer.segment(segment, group), " ");
    body.append(answer.text.slice(answer.ends.at(-1)));
  } else {
    body.append(answer ? answer.text || "(an empty answer)" : "(not recorded)");
  }
  return html("div", {}, html("p", { class: "side" }, title), body);
};

// Every sign is said aloud as well, and none is a colour alone.
PARADOX.explorer.segment = ({ text, judged, paid }, { whole }) => {
  const { html, fixed, signed } = PARADOX;
  const truth = whole ? "whole" : judged > 0 ? "good" : "bad";
  const mark = whole ? `score ${fixed(judged)}` : judged > 0 ? "✓" : "✗";
  const aloud = whole ? "" : judged > 0 ? "good, " : "an error, ";
  const node = html("span", { class: `segment ${truth} ${paid > 0 ? "rewarded" : "docked"}` });
  node.append(
    ...(whole ? [] : [html("span", { class: "sign", "aria-hidden": "true" }, mark)]),
    html("span", { class: "words" }, text.trim()),
    html("span", { class: "aloud" }, ` (${aloud}paid) `),
    html("span", { class: "pay" }, signed(paid)),
    ...(whole ? [html("span", { class: "score" }, mark)] : []),
  );
  return node;
};

PARADOX.explorer.words = (group, run, answers) => {
  const { html, fixed, signed, sum } = PARADOX;
  const side = (when, answer) => {
    if (!answer) return ` ${when} no answer is recorded.`;
    if (group.whole) return ` ${when} the answer scores ${fixed(sum(answer.judged))} and is paid ${signed(sum(answer.paid))}.`;
    const right = answer.judged.filter((truth, i) => truth > 0 === answer.paid[i] > 0).length;
    const worth = sum(answer.judged.map((truth) => Math.sign(truth) * group.size));
    const paid = signed(sum(answer.paid), 1);
    return ` ${when} it is right about ${right} of ${answer.judged.length} segments and pays ${paid}; they are worth ${signed(worth, 1)}.`;
  };
  const top = run.top ? ", the most accurate of its training" : "";
  const idle = run.nothing === null ? "" : `; one that knows nothing has ${fixed(run.nothing, 3)}`;
  return [
    html("strong", {}, `A reward model of accuracy ${fixed(run.accuracy, 3)}`),
    ` (${run.name}${top}${idle}).${side("Before PPO", answers[0])}${side("After PPO", answers[1])}`,
  ];
};

PARADOX.explorer.legend = ({ whole }) => {
  const { html } = PARADOX;
  const key = (kinds, mark, words, meaning) =>
    html(
      "span",
      { class: "key" },
      html("span", { class: `segment ${kinds}`, "aria-hidden": "true" }, mark && html("span", { class: "sign" }, mark), html("span", { class: "words" }, words)),
      ` ${meaning}`,
    );
  const pay = [key("plain rewarded", "", "solid line", "paid"), key("plain docked", "", "dashed line", "docked by the reward model")];
  if (whole) return [html("span", { class: "key" }, "The score is the truth: 1 is a complete answer."), ...pay];
  return [key("good plain", "✓", "segment", "in truth good"), key("bad plain", "✗", "segment", "in truth an error"), ...pay];
};
