"use strict";
// The command builder: a notebook with other parameters, or a whole study, as the line to type.

PARADOX.kinds.commands = (root, data) => {
  const { html, live, commands } = PARADOX;
  const form = html("div", { class: "form" });
  const line = html("code", {});
  const said = live();
  const write = (words) => {
    line.textContent = words.join(" ");
    said.textContent = "";
  };
  const copy = html("button", { type: "button" }, "Copy");
  copy.addEventListener("click", () => {
    said.textContent = commands.copy(line) ? "Copied." : "The line is selected: copy it with your keyboard.";
  });
  const ways = {
    "one notebook": () => commands.notebook(form, data, write),
    "a whole study": () => commands.study(form, data, write),
  };
  const open = (way) => ways[way]();
  root.append(
    html("div", { class: "controls" }, PARADOX.pills("run", Object.keys(ways), open)),
    form,
    html("div", { class: "command" }, html("pre", { tabindex: 0, "aria-label": "The command" }, line), copy),
    said,
  );
  open("one notebook");
};

PARADOX.commands = {};

// Select the line and copy it: the clipboard's own interface is not there on every page read from a disk.
PARADOX.commands.copy = (node) => {
  getSelection().selectAllChildren(node);
  return document.execCommand("copy");
};

// Words that a shell would not leave alone, in quotes.
PARADOX.commands.quoted = (text) => (/^[\w./=:,+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

PARADOX.commands.notebook = (form, { notebooks, schemas }, write) => {
  const { html, select, commands } = PARADOX;
  const rows = html("div", { class: "rows" });
  const adding = html("div", {});
  let notebook;
  let fields;
  const command = () => {
    const given = fields.filter((field) => field.input);
    write(["papermill", `notebooks/${notebook.name}.ipynb`, "out.ipynb", ...given.flatMap(commands.option)]);
  };
  const add = (field) => {
    field.input = commands.input(field, notebook.values[field.name]);
    field.input.addEventListener("input", command);
    const drop = html("button", { type: "button", "aria-label": `Leave out ${field.name}` }, "×");
    const meaning = [field.choices ? "" : field.allowed, field.meaning].filter(Boolean).join("; ");
    const row = html("div", { class: "setting" }, html("label", {}, html("code", {}, field.name), field.input), drop, html("p", {}, meaning));
    drop.addEventListener("click", () => {
      row.remove();
      delete field.input;
      offer();
      command();
    });
    rows.append(row);
    offer();
    command();
    field.input.focus();
  };
  const offer = () => {
    const left = fields.filter((field) => !field.input);
    const choose = (i) => i && add(left[i - 1]);
    adding.replaceChildren(select("parameter", ["add one …", ...left.map((field) => field.name)], choose));
  };
  const open = (i) => {
    notebook = notebooks[i];
    fields = schemas[notebook.schema].map((field) => ({ ...field }));
    rows.replaceChildren();
    offer();
    command();
  };
  const which = select("notebook", notebooks.map(({ name, title }) => `${name}: ${title}`), open);
  form.replaceChildren(which, rows, adding);
  open(0);
};

// What a parameter takes, as a control that starts from the notebook's own value.
PARADOX.commands.input = ({ kind, choices, minimum, maximum }, value) => {
  const { html } = PARADOX;
  const text = Array.isArray(value) ? `[${value.join(", ")}]` : kind === "object" ? JSON.stringify(value) : String(value ?? "");
  if (choices) {
    const box = html("select", {}, ...choices.map((choice) => html("option", { value: choice }, choice)));
    box.value = kind === "boolean" ? PARADOX.capital(text) : text;
    return box;
  }
  if (kind !== "integer" && kind !== "number") return html("input", { type: "text", value: text, spellcheck: "false" });
  const box = html("input", { type: "number", value: text, step: kind === "integer" ? 1 : "any" });
  if (minimum !== null) box.min = minimum;
  if (maximum !== null) box.max = maximum;
  return box;
};

// A parameter on papermill's command line: -p takes plain values, -y lists and names with values.
PARADOX.commands.option = ({ name, kind, input }) => {
  const { quoted } = PARADOX.commands;
  if (kind === "array" || kind === "object") return ["-y", quoted(`${name}: ${input.value}`)];
  return ["-p", name, quoted(input.value || (kind === "string" ? "" : "None"))];
};

PARADOX.commands.study = (form, { configs }, write) => {
  const { html, select } = PARADOX;
  const about = html("p", { class: "about" });
  const counts = { WORKERS: "runs at a time", THREADS: "threads of a run" };
  const inputs = Object.keys(counts).map((name) => html("input", { type: "number", min: 1, step: 1, "data-name": name }));
  let config = configs[0];
  const command = () => {
    about.textContent = config.about && `${PARADOX.capital(config.about)}.`;
    const given = inputs.filter((input) => input.value).map((input) => `${input.dataset.name}=${input.value}`);
    write(["make", "study", `CONFIG=configs/${config.name}.yaml`, ...given]);
  };
  const open = (i) => {
    config = configs[i];
    command();
  };
  for (const input of inputs) input.addEventListener("input", command);
  const rows = inputs.map((input) =>
    html("div", { class: "setting" }, html("label", {}, html("span", {}, counts[input.dataset.name]), input)),
  );
  form.replaceChildren(select("study", configs.map((one) => one.name), open), about, ...rows);
  command();
};
