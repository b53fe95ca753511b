"""What staging adds to a page: numbers in the order of the book, sources, hidden inputs, a foot, and no typed result."""

import json
import re
from collections import Counter

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from paradox_utils import files
from paradox_utils.pages import citation, sources

ROOT = files.ROOT
COMMIT = "69c0d985c6e738e8ad0cc477523c13c706774058"


def shown(name, kind="Figure", csv=None, runs="", prefix=""):
    data = {"text/html": f'<figure class="drawing" id="{name}">\n<figcaption>What.</figcaption>\n</figure>', "text/plain": name}
    data |= {"text/csv": csv} if csv else {}
    about = {"paradox": {"kind": kind, "name": name, "runs": runs}}
    return new_output("display_data", data={prefix + key: value for key, value in data.items()}, metadata=about)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A recorded study of three runs."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    run = {"commit": COMMIT, "device": "cpu"}
    (tmp_path / "results").mkdir()
    record = {"study": "mine", "runs": [{"id": name, **run} for name in ("r1", "r2", "r3")]}
    (tmp_path / "results" / "provenance.json").write_text(json.dumps(record))
    (tmp_path / "data").mkdir()
    return {"results": "results", "out": ""}


def annotated(outputs, given, folder):
    notebook, counts = new_notebook(cells=[new_code_cell("x", outputs=outputs)]), Counter(Figure=2)
    sources.annotate(notebook, "07-why", given, counts, folder)
    return ["".join(value for kind, value in output.data.items() if kind.endswith("html")) for output in outputs], counts


def test_figures_and_tables_are_numbered_on_from_the_pages_before(study, tmp_path):
    outputs = [shown("a"), shown("b", "Table", prefix=sources.PREFIX), shown("c")]
    texts, counts = annotated(outputs, study, tmp_path / "data")
    assert [re.findall(r'number">(\w+ \d+)<', text) for text in texts] == [["Figure 3"], ["Table 1"], ["Figure 4"]]
    assert counts == {"Figure": 4, "Table": 1}


def test_a_source_line_has_data_notebook_runs_and_command(study, tmp_path):
    outputs = [shown("a", csv="id,x\nr2,1\nr1,2\nother,3\n"), shown("b", csv="x\n1\n", runs="r3")]
    (first, second), _ = annotated(outputs, study, tmp_path / "data")
    assert "text/csv" not in outputs[0].data
    assert (tmp_path / "data" / "a.csv").read_text() == "id,x\nr2,1\nr1,2\nother,3\n"
    assert re.findall(r'href="([^"]+)"', first) == ["../data/a.csv", "../notebooks/07-why.ipynb", "../data/a-runs.csv"]
    assert "2 runs of the study mine (commit 69c0d985, cpu)" in first  # no day: this folder is no clone
    assert "pages execute 07-why" in first
    assert "1 run of the study mine" in second
    assert (tmp_path / "data" / "b-runs.csv").read_text() == f"id,study,commit,device\nr3,mine,{COMMIT},cpu\n"


def test_a_commit_that_files_differ_from_is_named_with_its_day(monkeypatch):
    monkeypatch.setattr(sources, "_day", lambda commit: {COMMIT: " of 2026-11-20"}[commit])
    run = {"study": "mine", "device": "cpu"}
    said = sources._counted([run | {"commit": COMMIT}, run | {"commit": f"{COMMIT}+"}])
    assert "(commit 69c0d985 of 2026-11-20, cpu)" in said
    assert "(commit 69c0d985 of 2026-11-20 and changes beyond it, cpu)" in said


def test_a_study_s_own_page_has_its_parameters_and_figures_of_other_names(study, tmp_path):
    cells = [
        new_markdown_cell("# Our study\n\nSee [](#a) and [](../book/x.md)."),
        new_code_cell('results = "results/recorded/atlas"', metadata={"tags": ["parameters"]}),
        new_code_cell('# Parameters\nresults = "results/mine"', metadata={"tags": ["injected-parameters"]}),
        new_code_cell("x", outputs=[shown("a", csv="x\n1\n")]),
    ]
    notebook = new_notebook(cells=cells)
    sources.as_own(notebook)
    assert notebook.cells[0].source == "# Your run\n\nSee [](#your-a) and [](../book/x.md)."
    assert [cell.metadata.get("tags") for cell in notebook.cells] == [None, ["parameters"], None]
    assert "results/mine" in notebook.cells[1].source
    sources.annotate(notebook, sources.OWN, study, Counter(), tmp_path / "data")
    text = notebook.cells[2].outputs[0].data["text/html"]
    assert 'id="your-a"' in text
    assert re.findall(r'href="([^"]+)"', text) == ["../data/your-a.csv", "../notebooks/your-run.ipynb"]
    assert "make study" in text


def test_code_is_hidden_and_preparations_are_gone():
    glued = new_output("display_data", data={f"{sources.PREFIX}text/plain": "1"})
    drawn, said = shown("a"), new_output("display_data", data={"text/markdown": "So it is."})
    clicked = {"tags": ["hide-output"], "click": "The rule"}
    cells = [
        new_code_cell("seed = 1", metadata={"tags": ["parameters"]}),
        new_code_cell("import x"),
        new_code_cell("draw()", outputs=[drawn], metadata={"tags": ["figure"]}),
        new_code_cell("say()", outputs=[said]),
        new_code_cell("glue()", outputs=[glued]),
        new_code_cell("rule()", outputs=[said], metadata=clicked),
        new_code_cell(f"{sources.CHECK}\nprint(1)", outputs=[new_output("stream", text="1")]),
    ]
    sources.trim(new_notebook(cells=cells))
    gone, silent = ["remove-cell"], ["remove-input"]
    expected = [["parameters", *gone], gone, ["figure", "hide-input"], silent, gone, ["hide-output", *silent], gone]
    assert [cell.metadata.tags for cell in cells] == expected
    assert cells[5].metadata.mystnb.code_prompt_show == "The rule"


def test_numbers_have_a_true_minus_and_keep_their_percent_sign():
    said = {"text/markdown": "It is -0.3 (95 % interval -1 to 2), p-2, 2026-11-24, log -p."}
    glued = {f"{sources.PREFIX}text/plain": "'it is -0.3, 5 %'"}
    drawn = {"text/html": '<svg><path d="m-1-2"/></svg>95 % of cases'}
    outputs = [new_output("display_data", data=data) for data in (said, glued, drawn)]
    said, glued, drawn = (output.data for output in outputs)
    notebook = new_notebook(cells=[new_markdown_cell("A 95 % interval, -p 3"), new_code_cell("x", outputs=outputs)])
    sources.typeset(notebook)
    assert notebook.cells[0].source == "A 95% interval, -p 3"
    assert said["text/markdown"] == "It is −0.3 (95% interval −1 to 2), p-2, 2026-11-24, log -p."
    assert glued[f"{sources.PREFIX}text/plain"] == "'it is −0.3, 5%'"
    assert drawn["text/html"] == '<svg><path d="m-1-2"/></svg>95% of cases'


def test_the_foot_has_the_command_with_every_parameter_and_the_citation():
    notebook = new_notebook(cells=[new_code_cell("seeds = [1, 2]  # of runs", metadata={"tags": ["parameters"]})])
    sources.foot(notebook, "07-why", {"results": "my results", "seeds": [1, 2], "out": ""})
    text = notebook.cells[1].source
    assert "papermill notebooks/07-why.ipynb out.ipynb -p results 'my results' -y 'seeds: [1, 2]'\n" in text
    assert "seeds = [1, 2]  # of runs" in text
    assert citation.bibtex() in text
    sources.foot(notebook, sources.OWN, {"results": "results/mine"})
    made_by = "papermill notebooks/05-accuracy-and-performance.ipynb out.ipynb -p results results/mine\n"
    assert made_by in notebook.cells[2].source


def test_the_citation_is_that_of_the_file():
    entry, text = citation.bibtex(), (ROOT / citation.FILE).read_text(encoding="utf-8")
    version = re.search(r"^version: (.+)$", text, flags=re.MULTILINE)[1]
    assert entry.startswith("@software{")
    assert f"version = {{{version}}}" in entry
    assert "author = {{The accuracy-paradox-book contributors}}" in entry


# --- no typed result ------------------------------------------------------------------------------------------------------

SETTINGS = "implementation-details"  # the paper's and the released code's settings, one by one
BOOK = [page for page in sorted((ROOT / "book").glob("*.md")) if page.stem != SETTINGS]
RESULT_PAGES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *BOOK, ROOT / "README.md"]
RESULT = re.compile(r"(?<![\w.])(?:\d+\.\d+|\d+ ?%|\d+ of (?:the )?\d+)")
NO_CODE = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$|\{[\w:]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)", flags=re.DOTALL)
GIVEN = {  # a number that a page may say → what gave it
    "95 %": "the level of all intervals",
    "0.01": "the step to which accuracies are told apart",
    "2.8": "billions of parameters of another paper's policy",
    "1.5": "segments an answer, below which it is called brief",
    "0.12": "the regret that a simulation is asked for",
    "0.5": "the AUC of a measure that tells nothing",
    "3.11": "a version of Python",
    "3.12": "a version of Python",
    "2.0": "the version of the licence",
    "2410.06554": "the paper's number in arXiv",
}
GIVEN_ON = {  # the same, on one page
    "benchmarks": {"95%": "the level of all intervals"},
    "choose": {
        **{"0.975": "the level at which one is named", "0.8": "the level of a set", "80 %": "a power"},
        "0.05": "the deviation that a constant of the package allows PPO",
    },
    "17-regime": {"0.775": "what a constant of the package calls the paper's most accurate"},
    "16-choose-reward-model": {"0.05": "the deviation that a constant of the package allows PPO", "80 %": "the level of a set"},
    "clusters": {"1.2": "what a run reserves beyond the largest peak seen"},
    "method": {"0.3": "the paper's size of a reward", "1.25": "an ε of Adam"},
    "metrics": {"0.8": "how near two lengths must be", "80 %": "the level of a set", "0.05": "the deviation allowed to PPO"},
    "real-feedback": {
        **dict.fromkeys(("1.1", "2.3", "2.5", "0.25", "3.4"), "hours that a study was reckoned to take before it ran"),
        "30%": "the share of questions that an evaluator learns from",
    },
}


def prose(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def typed(text, page=""):
    """What looks like a result in Markdown: a decimal, a percentage, so many of so many."""
    given = GIVEN | GIVEN_ON.get(page, {})
    return [number for number in RESULT.findall(NO_CODE.sub(" ", text)) if number not in given]


@pytest.mark.parametrize("path", RESULT_PAGES, ids=lambda path: path.stem)
def test_no_result_is_typed_in_prose(path):
    assert typed(prose(path), path.stem) == [], "compute it in a cell, glue it, or name it in GIVEN with what gave it"


def test_a_typed_result_is_noticed():
    text = "Of 180 runs 12 % fell to 0.31, 8 of 9 pairs.\n\n`0.5` $0.6$ {glue:text}`0.7` [a](0.8) T5.2 95 %"
    assert typed(text) == ["12 %", "0.31", "8 of 9"]
