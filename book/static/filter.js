"use strict";
// The filter box of a reference page: it keeps the rows of its tables that have the words, and the sections that keep a row.

PARADOX.kinds.filter = (root) => {
  const { html, live } = PARADOX;
  const page = root.closest("article") ?? document.body;
  const rows = [...page.querySelectorAll("table tbody tr")].map((node) => ({ node, text: node.textContent.toLowerCase() }));
  const sections = [...page.querySelectorAll("section")].filter((section) => section.querySelector("table"));
  const said = live();
  const box = html("input", { type: "search", placeholder: "accuracy, KL, learning rate …", autocomplete: "off" });
  const keep = () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const { node, text } of rows) node.hidden = !words.every((word) => text.includes(word));
    // an outer section goes with the last of its tables, and all stand where nothing is asked
    for (const section of sections) section.hidden = box.value.trim() !== "" && !section.querySelector("tbody tr:not([hidden])");
    root.closest("section")?.removeAttribute("hidden"); // the box itself stays
    said.textContent = `${rows.filter(({ node }) => !node.hidden).length} of ${rows.length} rows.`;
  };
  box.addEventListener("input", keep);
  root.append(html("label", { class: "select" }, html("span", {}, "show rows with"), box), said);
  keep();
};
