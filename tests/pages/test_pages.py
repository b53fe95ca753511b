"""Pages know whether they are fresh, staging touches nothing tracked, and the prose keeps to what the code says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from paradox_utils import config, files
from paradox_utils.config import study
from paradox_utils.pages import __main__, freshness, parameters, staging
from paradox_utils.study import plan

PROJECT = files.ROOT
BIN = Path(sys.executable).parent
CHECK = "from paradox_utils import config\np = config.check_notebook(config.{schema}, globals())"


def write(path, schema="PPO", parameters='task = "relevance"', body="1 + 1", outputs=()):
    cells = [
        new_markdown_cell("# A page"),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        new_code_cell(CHECK.format(schema=schema)),
        new_code_cell(body, outputs=list(outputs)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


def stamped(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["paradox"] = freshness.stamp(path)
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder of its own."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "model.bin").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def book(root):
    """The real book with pages that need no training."""
    for name in ("_config.yml", "_toc.yml", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(PROJECT / name, root)
    shutil.copytree(PROJECT / "book", root / "book", ignore=shutil.ignore_patterns("__pycache__"))
    analysis(root / "notebooks" / staging.ANALYSIS, "the stored verdict")
    write(root / "notebooks" / "04-ppo.ipynb")
    return root


def analysis(path, verdict):
    data = {"application/papermill.record/text/plain": repr(verdict)}
    glued = new_output("display_data", data=data, metadata={"scrapbook": {"name": "verdict"}})
    return write(path, schema="Analysis", parameters='results = "results/recorded/quick"', body="2", outputs=[glued])


# --- stamps -------------------------------------------------------------------------------------------------------------


def test_committed_pages_are_fresh():
    reasons = {path.name: changed for path, changed in freshness.stale(freshness.pages()).items()}
    assert reasons == {}, f"executed before their code, parameters or data changed: {reasons}; {freshness.WAY_OUT}"


def test_a_stamped_page_is_fresh(root):
    assert freshness.stale([stamped(write(root / "notebooks" / "a.ipynb"))]) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"body": "1 + 2"}, "code"), ({"parameters": 'task = "factuality"'}, "parameters")],
)
def test_an_edited_page_is_stale(root, change, reason):
    path = stamped(write(root / "notebooks" / "a.ipynb"))
    kept = nbformat.read(path, as_version=4).metadata["paradox"]
    notebook = nbformat.read(write(path, **change), as_version=4)
    notebook.metadata["paradox"] = kept
    nbformat.write(notebook, path)
    assert freshness.stale([path]) == {path: [reason]}


OUTPUT = new_output("stream", name="stdout", text="0.731\n")


@pytest.mark.parametrize("shows", [(), (OUTPUT, OUTPUT), (new_output("stream", name="stdout", text="0.732\n"),)])
def test_a_page_whose_outputs_were_stripped_or_written_over_is_stale(root, shows):
    path = stamped(write(root / "notebooks" / "a.ipynb", outputs=[OUTPUT]))
    assert freshness.stale([path]) == {}
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = list(shows)
    nbformat.write(notebook, path)
    assert freshness.stale([path]) == {path: ["outputs"]}


def test_text_and_cells_that_show_nothing_make_no_page_stale(root):
    path = stamped(write(root / "notebooks" / "a.ipynb", outputs=[OUTPUT]))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_markdown_cell("More on this."))
    notebook.cells.append(nbformat.v4.new_code_cell(""))
    nbformat.write(notebook, path)
    assert freshness.stale([path]) == {}


def no_tags(page):
    for cell in page["cells"]:
        cell["metadata"] = {}


def tag_last(page):
    no_tags(page)
    page["cells"][-1]["metadata"] = {"tags": ["parameters"]}


def injected(page):
    page["cells"][-1]["metadata"] = {"tags": ["injected-parameters"]}


def no_literal(page):
    page["cells"][1]["source"] = "task = str()"


@pytest.mark.parametrize("change", [no_tags, tag_last, injected, no_literal])
def test_a_page_saved_so_that_parameters_would_not_take_effect_is_refused(root, change):
    path = stamped(write(root / "notebooks" / "a.ipynb"))
    page = json.loads(path.read_text())
    change(page)
    path.write_text(json.dumps(page))
    with pytest.raises(files.FileError, match=r"a\.ipynb: .*`parameters`"):
        freshness.stale([path])


def by_an_editor(page):
    for cell in page["cells"]:
        cell["metadata"] |= {"vscode": {"languageId": "python"}, "collapsed": False}


def no_ids(page):
    for cell in page["cells"]:
        cell.pop("id", None)


def other_kernel(page):
    page["metadata"] |= {"kernelspec": {"display_name": "mine", "name": "mine"}, "language_info": {"name": "python"}}


def no_kernel(page):
    page["metadata"] = {"paradox": page["metadata"]["paradox"]}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:Cell is missing an id field")
@pytest.mark.parametrize("change", [by_an_editor, no_ids, other_kernel, no_kernel])
def test_a_page_that_another_program_saved_is_fresh_and_runs(root, change):
    path = stamped(write(root / "notebooks" / "a.ipynb"))
    page = json.loads(path.read_text())
    change(page)
    path.write_text(json.dumps(page))
    assert freshness.stale([path]) == {}
    freshness.execute([path])
    assert nbformat.read(path, as_version=4).cells[-1].outputs[0].data["text/plain"] == "2"


def test_a_page_without_a_stamp_is_stale(root):
    path = write(root / "notebooks" / "a.ipynb")
    assert freshness.stale([path]) == {path: ["code", "parameters", "data", "outputs"]}


def test_writing_out_a_default_changes_nothing(root):
    bare, full = (
        write(root / "a.ipynb", parameters=""),
        write(root / "b.ipynb", parameters="seed = 0\nkl_coefficient: float = 0.05"),
    )
    assert freshness.stamp(bare) == freshness.stamp(full)


def test_a_changed_default_makes_a_page_stale(root, monkeypatch):
    path = stamped(write(root / "notebooks" / "a.ipynb"))

    class PPO(config.PPO):
        updates: int = 41

    monkeypatch.setitem(config.STAGES, "ppo", PPO)
    assert freshness.stale([path]) == {path: ["parameters"]}


def test_pages_depend_on_the_data_they_read_and_no_other(root):
    results = root / "results" / "recorded" / "quick"
    results.mkdir(parents=True)
    training, looking = root / "notebooks" / "a.ipynb", root / "notebooks" / staging.ANALYSIS
    stamped(write(training))
    (results / "summary.csv").write_text("id\n1\n")
    stamped(analysis(looking, "v"))
    (results / "summary.csv").write_text("id\n2\n")
    assert freshness.stale([training, looking]) == {looking: ["data"]}
    stamped(looking)
    (root / "fixtures" / "model.bin").write_bytes(b"other weights")
    assert freshness.stale([training, looking]) == {training: ["data"]}


def test_a_notebook_that_checks_nothing_is_refused(root):
    path = root / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("task = 1", metadata={"tags": ["parameters"]})]), path)
    with pytest.raises(files.FileError, match=r"a\.ipynb: no cell calls config\.check_notebook"):
        freshness.stamp(path)


def test_check_names_the_page_and_the_way_out(root, capsys):
    write(root / "notebooks" / "a.ipynb")
    assert __main__.main(["check"]) == 1
    assert "notebooks/a.ipynb: its code, parameters, data, outputs changed" in (said := capsys.readouterr().err)
    assert "make pages" in said


def test_an_unknown_name_is_refused(root, capsys):
    write(root / "notebooks" / "a.ipynb")
    assert __main__.main(["execute", "b"]) == 1
    assert "no page b; there are a" in capsys.readouterr().err


# --- execution ----------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_execution_runs_cleans_and_stamps(root, monkeypatch):
    body = "import os, sys\nprint(os.getcwd())\nprint(sys.prefix + '/bin')\nprint(task * 2)"
    path = write(root / "notebooks" / "a.ipynb", body=body)
    assert __main__.main(["execute", "a"]) == 0
    page = nbformat.read(path, as_version=4)
    assert page.cells[-1].outputs[0].text == ".\n<environment>/bin\nrelevancerelevance\n"
    assert set(page.metadata) == {"kernelspec", "language_info", "paradox"}
    assert all(set(cell.metadata) <= {"tags"} for cell in page.cells)
    assert freshness.stale([path]) == {}
    assert [p.name for p in (root / "notebooks").iterdir()] == ["a.ipynb"]


@pytest.mark.heavy
def test_a_failing_notebook_leaves_its_page_alone(root):
    import papermill

    path = stamped(write(root / "notebooks" / "a.ipynb"))
    write(path, body="1 / 0")
    before = path.read_bytes()
    with pytest.raises(papermill.PapermillExecutionError, match="ZeroDivisionError"):
        freshness.execute([path])
    assert path.read_bytes() == before


def test_cleaning_drops_progress_and_keeps_results(root):
    outputs = [
        new_output("stream", name="stderr", text="10%\r100%"),
        new_output("display_data", data={"text/html": "<progress value=3>"}),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
        new_output("stream", name="stderr", text=f"UserWarning in {root}/paradox_utils/x.py"),
        new_output("display_data", data={"image/png": "iVBOR", "text/plain": "a figure"}),
    ]
    volatile = {"execution": {"iopub": "1"}, "papermill": {"duration": 1}}
    cell = new_code_cell("x", outputs=outputs, metadata={"tags": ["figure"], **volatile})
    cleaned = freshness.clean(new_notebook(cells=[cell], metadata={"papermill": {"input_path": "/x"}}))
    assert [o.get("text") for o in cleaned.cells[0].outputs] == ["UserWarning in paradox_utils/x.py", None]
    assert cleaned.cells[0].outputs[1].data == {"image/png": "iVBOR", "text/plain": "a figure"}
    assert cleaned.cells[0].metadata == {"tags": ["figure"]}
    assert "papermill" not in cleaned.metadata


# --- staging ------------------------------------------------------------------------------------------------------------


def contents(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "_build" not in path.parts}


@pytest.mark.heavy
def test_staging_leaves_the_sources_alone_and_stages_every_page(book):
    before = contents(book)
    target = staging.stage()
    assert contents(book) == before
    toc = yaml.safe_load((target / "_toc.yml").read_text())
    listed = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    prose = [name for name in listed if name.startswith("book/")]
    assert len(prose) == 18
    assert all((target / f"{name}.md").is_file() for name in prose)
    assert {p.name for p in (target / "notebooks").iterdir()} == {"04-ppo.ipynb", staging.ANALYSIS}
    assert all((PROJECT / f"{name}.ipynb").is_file() for name in listed if name.startswith("notebooks/"))


@pytest.mark.heavy
def test_a_study_s_own_analysis_stands_beside_that_of_the_book(book):
    analysis(book / "results" / "mine" / staging.ANALYSIS, "it's my verdict")
    target = staging.stage(Path("results/mine"))
    assert "my verdict" in (target / "notebooks" / "your-run.ipynb").read_text()
    assert "stored verdict" in (target / "notebooks" / staging.ANALYSIS).read_text()
    listed = re.findall(r"file: (\S+)", (target / "_toc.yml").read_text())
    assert listed[listed.index("notebooks/your-run") - 1] == f"notebooks/{Path(staging.ANALYSIS).stem}"
    first = (target / "book" / "introduction.md").read_text()
    places = [first.index(f"{page}::answer:s") for page in (staging.ANALYSIS, "your-run.ipynb")]
    assert places == sorted(places)  # the recorded study first
    assert staging.verdict(Path("results/mine")) == "it's my verdict"
    assert staging.verdict() == "the stored verdict"
    alone = staging.stage()
    assert not (alone / "notebooks" / "your-run.ipynb").exists()
    assert "your-run" not in (alone / "_toc.yml").read_text() + (alone / "book" / "introduction.md").read_text()


def test_a_missing_study_costs_nothing(book, capsys):
    (book / "_build" / "html").mkdir(parents=True)
    assert __main__.main(["stage", "--study", "results/none"]) == 1
    assert "make study" in capsys.readouterr().err
    assert (book / "_build" / "html").is_dir()


@pytest.mark.heavy
def test_the_pages_need_no_network_and_link_to_figures_and_words(book):
    target = staging.stage()
    toc = {"format": "jb-book", "root": "book/page", "chapters": [{"file": "book/references"}, {"file": "notebooks/04-ppo"}]}
    (target / "_toc.yml").write_text(yaml.safe_dump(toc))
    citations = "".join(f"{{cite:p}}`{key}`" for key in bibliography())
    figure = '<figure class="drawing" id="one"><figcaption><span class="figure-number">Figure 7</span> A.</figcaption></figure>'
    words = f"{figure}\n\nSee [](#one): a {{term}}`rank`.\n\n:::{{glossary}}\nrank\n  A *place*.\n:::"
    (target / "book" / "page.md").write_text(f"# A page\n\n{words}\n\n{citations}\n\n$$\n\\frac{{a}}{{b}}\n$$\n")
    options = ["--path-output", book, "--all", "-W", "-n", "--keep-going"]
    built = subprocess.run([BIN / "jupyter-book", "build", target, *options], cwd=book, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    html = book / "_build" / "html"
    page = (html / "book" / "page.html").read_text()
    assert "<mfrac>" in page
    assert re.search(r'<a class="reference internal" href="#one">.*Figure 7', page)
    assert re.search(r'href="#term-rank" aria-describedby="([\w-]+)">rank</a><span [^>]*id="\1">A place\.<', page)
    for page in html.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=[\"']((?:https?:)?//[^\"']+)", page.read_text())
        assert fetched == [], f"{page.name} fetches {fetched}"


# --- the prose ----------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_the_parameter_page_lists_every_parameter():
    sections = re.split(r"^## ", parameters.parameter_page(), flags=re.MULTILINE)
    shared = next(s for s in sections if s.startswith("Shared"))
    for name, schema in config.STAGES.items():
        section = next(s for s in sections if s.startswith(f"Stage `{name}`"))
        rows = re.findall(r"^\| `(\w+)` \|", section.split("\n### ")[0], flags=re.MULTILINE)
        known = re.findall(r"^\| `(\w+)` \|", shared, flags=re.MULTILINE)
        common = [f for f in schema.model_fields if f in config.Source.model_fields and f not in rows]
        assert sorted([*rows, *common]) == sorted(schema.model_fields)
        assert set(common) <= set(known)
    chosen = next(s for s in sections if s.startswith("Stage `choose`"))
    assert all(f"| `{field}` |" in chosen.split("\n### ")[1] for field in config.Candidate.model_fields)
    for schema in (study.Study, study.Arm):
        assert all(f"| `{field}` |" in sections[-1] for field in schema.model_fields)


@pytest.mark.heavy
def test_the_parameter_page_takes_defaults_and_bounds_from_the_schema():
    page = parameters.parameter_page()
    assert f"| `updates` | integer ≥ 0; default `{config.PPO().updates}` |" in page
    assert "| `whitening` | `standard-deviation` | `root-of-standard-deviation` |" in page
    assert "| `top_k` | `0` | `20` |" in page


def documents():
    return {path.name: path.read_text(encoding="utf-8") for path in [PROJECT / "README.md", *(PROJECT / "book").glob("*.md")]}


def test_commands_in_the_prose_name_existing_parameters_targets_and_files():
    fields = {field for schema in config.STAGES.values() for field in schema.model_fields}
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for name, text in documents().items():
        code = "\n".join(re.findall(r"`[^`\n]+`|^make .*$", text, flags=re.MULTILINE))
        assert set(re.findall(r" -p (\w+)", text)) <= fields, name
        assert set(re.findall(r"\bmake ([a-z]+)\b", code)) <= targets, name
        for path in re.findall(r"\b((?:notebooks|configs|book/static)/[\w.-]+\.(?:ipynb|yaml|png))", text):
            assert (PROJECT / path).is_file() or path in ("configs/mine.yaml", "configs/NAME.yaml"), f"{name}: {path}"


def test_the_example_study_can_be_planned(tmp_path):
    example = re.search(r"```yaml\n(.*?)```", documents()["rerun.md"], flags=re.DOTALL).group(1)
    (tmp_path / "mine.yaml").write_text(example)
    runs = plan.plan(study.load_study(tmp_path / "mine.yaml"))
    assert sum(run.stage == "ppo" for run in runs) == 2 * 4 * 2 + 2  # seeds × checkpoints × seeds, and two noise levels


def bibliography():
    return re.findall(r"^@\w+\{(\w+),", (PROJECT / "book" / "references.bib").read_text(), flags=re.MULTILINE)


def test_every_citation_is_in_the_bibliography_and_every_entry_is_cited():
    cited = ",".join(re.findall(r"\{cite:[pt]\}`([^`]+)`", "\n".join(documents().values()))).split(",")
    assert set(cited) == set(bibliography())
