"use strict";
// The forest of regrets: every comparison by the rule, of which a route, a task and a policy choose some.

PARADOX.kinds.regrets = (root, data) => {
  const { html, live } = PARADOX;
  const { controls, chosen } = PARADOX.regrets.controls(data.rows, () => show());
  const body = html("tbody");
  const said = live();
  const more = html("button", { type: "button" });
  let all = false;
  const values = data.rows.flatMap((row) => [row.low, row.high]);
  const range = PARADOX.extent([...values, -data.margin, data.margin], 0.03);
  const place = (value) => `${PARADOX.scale(range, [0, 100])(value).toFixed(2)}%`;
  const show = () => {
    const rows = data.rows.filter((row) => PARADOX.regrets.keys.every((key) => [PARADOX.regrets.every, row[key]].includes(chosen[key])));
    const named = chosen.route === PARADOX.regrets.every;
    const together = rows.filter((row) => row.pooled);
    const shown = all || rows.length <= PARADOX.regrets.few || !together.length ? rows : together;
    const lines = shown.map((row) => PARADOX.regrets.row(row, named, data.margin, place));
    const alone = named ? -1 : shown.findIndex((row) => !row.pooled);
    if (alone > 0) lines.splice(alone, 0, PARADOX.regrets.heading("each task and policy alone"));
    body.replaceChildren(...lines);
    said.textContent = PARADOX.regrets.words(rows);
    more.textContent = `Show all ${rows.length}`;
    more.hidden = shown.length === rows.length;
  };
  more.addEventListener("click", () => {
    all = true;
    show();
  });
  const head = html("tr", {}, html("th", { scope: "col" }, "comparison"), html("th", { scope: "col" }, "regret (95% interval), the paper"), html("td"));
  const axis = html("td", {}, PARADOX.regrets.axis(range, place));
  const table = html("table", { class: "regrets" }, html("thead", {}, head), body);
  table.append(html("tfoot", { "aria-hidden": "true" }, html("tr", {}, html("td"), html("td"), axis)));
  root.append(controls, said, table, more);
  show();
};

// Up to a few rows all are shown; of more, those over several tasks or policies come first.
PARADOX.regrets = { every: "All", keys: ["route", "task", "policy"], few: 6 };

PARADOX.regrets.heading = (words) => {
  const { html } = PARADOX;
  return html("tr", {}, html("th", { class: "group", scope: "rowgroup", colspan: 3 }, words));
};

// One choice a key that has several values: the first route and every task and policy to begin with.
PARADOX.regrets.controls = (rows, changed) => {
  const { every, keys } = PARADOX.regrets;
  const controls = PARADOX.html("div", { class: "controls" });
  const chosen = { route: rows[0].route, task: every, policy: every };
  for (const key of keys) {
    const names = [...new Set(rows.map((row) => row[key]))].filter((name) => name !== "");
    const choices = key === "route" ? [...names, every] : [every, ...names];
    const choose = (name) => {
      chosen[key] = name;
      changed();
    };
    if (names.length < 2) chosen[key] = every;
    else if (key === "route") controls.append(PARADOX.select(key, choices, (index) => choose(choices[index])));
    else controls.append(PARADOX.pills(key, choices, choose));
  }
  return { controls, chosen };
};

// Its name, its numbers, and its interval on the common scale: a diamond pools several tasks or policies.
PARADOX.regrets.row = (row, named, margin, place) => {
  const { html, fixed } = PARADOX;
  const across = (kind, from, to) => html("span", { class: kind, style: `left: ${place(from)}; right: calc(100% - ${place(to)})` });
  const at = (kind, value) => html("span", { class: kind, style: `left: ${place(value)}` });
  const marks = [across("band", -margin, margin), at("zero", 0), across("bar", row.low, row.high), at(row.pooled ? "mark pooled" : "mark", row.regret)];
  const numbers = `${fixed(row.regret, 3)} (${fixed(row.low, 3)} to ${fixed(row.high, 3)}), ${row.status}`;
  return html(
    "tr",
    { class: row.status.replace(" ", "-") },
    html("th", { scope: "row" }, named ? `${row.route}: ${row.name}` : row.name),
    html("td", { class: "numbers" }, numbers),
    html("td", { class: "track", "aria-hidden": "true" }, html("div", {}, ...marks)),
  );
};

PARADOX.regrets.axis = (range, place) => {
  const { html, ticks } = PARADOX;
  const inside = ticks(range, 4).filter(({ value }) => parseFloat(place(value)) < 96); // one at the edge would be cut
  return html("div", { class: "ticks" }, ...inside.map(({ value, text }) => html("span", { style: `left: ${place(value)}` }, text)));
};

PARADOX.regrets.words = (rows) => {
  if (!rows.length) return "No comparison of these has what the rule needs.";
  const counts = ["supported", "not supported", "undecided"].map((status) => [rows.filter((row) => row.status === status).length, status]);
  const told = counts.filter(([count]) => count).map(([count, status]) => `${status} in ${count}`);
  return `${rows.length} comparison${rows.length > 1 ? "s" : ""}: the paper is ${told.join(", ")}.`;
};
