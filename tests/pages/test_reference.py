"""The pages *Implementation details* and *Metrics* against the code: what they name exists, and what exists is named."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from paradox_utils import config, files
from paradox_utils.analysis import teachers
from paradox_utils.analysis.tables import (
    KINDS,
    load_checkpoints,
    load_curves,
    load_gap,
    load_parameters,
    load_picks,
    load_questions,
    load_sets,
    load_summary,
)
from paradox_utils.choose.__main__ import load
from paradox_utils.choose.run import choose
from paradox_utils.config import study
from paradox_utils.data.tasks import MARKED
from paradox_utils.results import begin, environment
from paradox_utils.rewards.stress import ALTERATIONS
from paradox_utils.stages import reward_model, supervised
from paradox_utils.stages.ppo import run_ppo
from paradox_utils.study import plan
from paradox_utils.study import tables as study_tables

BOOK = files.ROOT / "book"
DETAILS = (BOOK / "implementation-details.md").read_text(encoding="utf-8")
METRICS = (BOOK / "metrics.md").read_text(encoding="utf-8")
T5 = "configs/qa-feedback-t5-small.yaml"

SMALL = {"updates": 1, "evaluate_every": 1, "prompts_per_update": 2, "samples_per_prompt": 2, "reward": "model"}
SMALL |= {"train_questions": 8, "validation_questions": 3, "test_questions": 2, "probe_prompts": 2, "probe_samples": 2}
SMALL |= {"stress_records": 4}


# --- metrics ------------------------------------------------------------------------------------------------------------


def documented(label):
    """Names in the first cells of the tables under the section with this label."""
    section = re.search(rf"^\({label}\)=\n(.*?)(?=^\([a-z-]+\)=\n|\Z)", METRICS, flags=re.MULTILINE | re.DOTALL).group(1)
    first = re.findall(r"^\| (`[^|]*`) \|", section, flags=re.MULTILINE)
    names = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    return names


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of a study with the smallest real runs: PPO of one task, and reward models of two kinds."""
    folder, runs = tmp_path_factory.mktemp("study"), plan.plan(study.load_study(files.resolve("configs/quick.yaml")))
    ppo = next(run for run in runs if run.stage == "ppo")
    models = {run.parameters["task"]: run for run in runs if run.stage == "reward_model"}
    finished = {}
    results = folder / plan.results_folder("quick") / ppo.id
    results.mkdir(parents=True)
    finished[ppo.id] = run_ppo(config.PPO(**SMALL), results)[1]
    for task in ("relevance", "completeness"):
        p = config.RewardModel(task=task, checkpoint_steps=[0], max_length=64)
        finished[models[task].id] = reward_model.train_reward_model(p, folder / task)[0]
    graded, kind = models["factuality"].id, {"source": "semeval", "task": "preference", "evaluator_share": 0.25}
    p = config.RewardModel(checkpoint_steps=[0], max_length=64, **kind)
    finished[graded] = reward_model.train_reward_model(p, folder / plan.results_folder("quick") / graded)[0]
    judge = str(folder / plan.results_folder("quick") / graded / "checkpoint-0")
    changes = {"stress_records": 0, "train_questions": 0, "reward_model": judge, "evaluator": judge}
    run_ppo(config.PPO(**SMALL | kind | changes), folder / "graded")
    shutil.copy(folder / "graded/gap.csv", results)
    for name, found in finished.items():
        record = {"status": "ok", "reason": "", "seconds": 1.0, "results": found}
        path = folder / plan.results_folder("quick") / name / "run.json"
        path.parent.mkdir(exist_ok=True)
        files.write_json(path, record)
    patch = pytest.MonkeyPatch()
    patch.setattr(files, "ROOT", folder)
    study_tables.write("quick", runs)
    patch.undo()
    written = {file: pd.read_csv(folder / plan.results_folder("quick") / f"{file}.csv") for file in study_tables.TABLES}
    more = {"results": finished[ppo.id], "training": finished[models["relevance"].id]}
    return written | more | {"folder": folder / plan.results_folder("quick")}


SECTIONS = {
    "summary": "runs",
    "curves": "curves",
    "reward_models": "checkpoints",
    "questions": "questions",
    "responses": "responses",
    "best_of_n": "best-of-n",
    "gap": "gap",
    "picks": "picks",
    "sets": "sets",
}


def test_every_table_of_a_study_has_a_section():
    assert {*SECTIONS, "parameters"} == set(study_tables.TABLES)  # parameters have a page of their own
    assert all(f"| `{table}.csv` |" in METRICS and f"](#{label})" in METRICS for table, label in SECTIONS.items())


@pytest.mark.heavy
@pytest.mark.parametrize("table", SECTIONS)
def test_every_column_is_documented_once_and_no_other(tables, table):
    names, columns = documented(SECTIONS[table]), list(tables[table].columns)
    assert len(columns) > 3
    assert sorted(names) == sorted(columns)


@pytest.mark.heavy
def test_every_result_of_a_run_is_documented(tables):
    assert set(tables["results"]) <= {*documented("runs"), *documented("records")}


@pytest.mark.heavy
def test_readers_read_what_a_study_writes(tables):
    folder = tables["folder"]
    assert len(load_summary(folder)) == len(tables["summary"])
    assert len(load_checkpoints(folder)) == len(tables["reward_models"])
    assert len(load_curves(folder, *tables["curves"])) == len(tables["curves"])
    assert len(load_parameters(folder, "learning_rate")) == len(tables["summary"])
    assert len(load_questions(folder)) == 1  # the finished run's, after its last update
    assert len(load_gap(folder)) == len(tables["gap"]) > 0
    assert (len(load_picks(folder)), len(load_sets(folder))) == (len(tables["picks"]), len(tables["sets"])) == (5, 12)


@pytest.mark.heavy
def test_every_column_of_the_analysis_is_documented_once_and_no_other(tables):
    derived = set(load_summary(tables["folder"])) - set(tables["summary"])
    assert sorted(documented("derived")) == sorted({*derived, *teachers.along(tables["curves"])})


@pytest.mark.parametrize("name", ["quick", "qa-feedback-dev", "atlas-headroom", "atlas-pilot", "atlas-learning-rate", "atlas"])
def test_every_recorded_column_is_documented(name):
    folder = files.resolve(study_tables.RECORDED) / name
    for table, label in SECTIONS.items():
        if (folder / f"{table}.csv").is_file():
            assert set(pd.read_csv(folder / f"{table}.csv", nrows=0)) <= set(documented(label)), table


def test_every_column_of_a_choice_is_documented_once_and_no_other():
    """Of scores from files; those of models are altered and checked as well."""
    made = choose(load("configs/choose-scores.yaml"))
    columns = {name for table in (made.table, made.curves, made.best_of) for name in table}
    columns |= {f"altered_{name}" for name in ALTERATIONS if name != "plain"}
    columns |= {f"check_{name}" for name in ("batch", "other_side", "bfloat16", "cut")}
    assert sorted(documented("choice")) == sorted(columns)


@pytest.mark.heavy
def test_every_quantity_of_a_record_is_documented_and_no_other(tables, tmp_path):
    p = config.Supervised(
        policy=config.FIXTURE_POLICY, steps=1, batch_size=2, train_questions=8, validation_questions=2, out=str(tmp_path)
    )
    run = begin(p)
    losses, results, _ = supervised.supervised_policy(p, run.folder)
    run.finish(results)
    record = json.loads((tmp_path / "result.json").read_text())
    about = {"status", "reason", "results", "parameters", *environment()}  # what made it, and how it ended
    measured = {*record, *results, *losses, *tables["training"]} - about - {"checkpoints"}  # those are rows of a table
    measured |= tables["results"].keys() - set(documented("runs"))
    code = "".join(
        (files.ROOT / "paradox_utils" / f"{name}.py").read_text(encoding="utf-8") for name in ("results", "study/job")
    )
    measured |= set(re.findall(r'"(peak_\w+_mb|\w+_seconds)"', code))  # on a GPU, and in a study's own record
    assert sorted(documented("records")) == sorted(measured)


def test_every_column_has_a_definition_a_function_and_a_direction():
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in METRICS.splitlines() if re.match(r"\| `\w+`", line)]
    assert len(rows) > 80
    assert not re.search(r"\n\n\| `", METRICS), "a row after an empty line is in no table"
    for name, definition, unit in rows:
        assert re.search(r"[\w)`]\. (\{src\}`[\w.]+`(, )?)+ $", definition), name
        assert not unit.strip() or unit.strip()[-1] in "↑↓–", name


# --- implementation details -----------------------------------------------------------------------------------------------

BLOCKS = re.split(r"^### ", DETAILS, flags=re.MULTILINE)[1:]


def test_details_are_numbered_in_order_and_have_the_same_lines():
    assert [int(block.split(".")[0]) for block in BLOCKS] == list(range(1, len(BLOCKS) + 1))
    for block in BLOCKS:
        lines = re.findall(r"^- \*([\w ]+)\*: ", block, flags=re.MULTILINE)
        assert [line for line in lines if line != "Parameters"] == ["Paper", "Released code", "Here", "Code"], block[:40]
        assert lines in (["Paper", "Released code", "Here", "Code"], ["Paper", "Released code", "Here", "Parameters", "Code"])
        assert re.search(r"^- \*Code\*: \{src\}`", block, flags=re.MULTILINE), block[:40]


def test_details_say_where_the_paper_states_it_or_that_it_does_not():
    """No entry is left open: each names a place in the paper, or says that there is none."""
    assert "not recorded" not in DETAILS
    for block in BLOCKS:
        paper = re.search(r"^- \*Paper\*: (.*?)^- ", block, flags=re.MULTILINE | re.DOTALL).group(1)
        assert re.search(r"\b(not stated|tables? \d|sections? \d|figures)", paper), block[:40]


def groups():
    """Stage and text of each group of details."""
    for text in re.split(r"^## ", DETAILS, flags=re.MULTILINE)[1:]:
        yield re.search(r"^Parameters of stage `(\w+)`", text, flags=re.MULTILINE).group(1), text


def settings():
    """(stage, parameter, its values as written: default, preset, T5 config) of every switch with a default."""
    value = r"(?:`[^`]*`|unset|empty)"
    written = rf"`(\w+)`, default ({value})(?: \([^)]*\))?(?:, preset ({value}))?(?:, T5 config ({value}(?: / {value})*))?"
    found = []
    for stage, text in groups():
        for line in re.findall(r"^- \*Parameters\*: (.*?)\n- \*Code\*", text, flags=re.MULTILINE | re.DOTALL):
            for part in re.split(r";\s+", line):
                match = re.fullmatch(written, part.strip())
                assert match or re.fullmatch(r"`\w+`", part.strip()), part
                if match:
                    found.append((stage, *match.groups()))
    return found


def read(written):
    """The value of `` `0.2` ``, ``unset`` or ``empty``."""
    if written in ("unset", "empty"):
        return None if written == "unset" else ""
    return yaml.load(written.strip("`"), Loader=study._Loader)


def test_defaults_and_presets_are_those_of_the_schema():
    assert len(settings()) > 40
    for stage, name, default, preset, _ in settings():
        schema = config.STAGES[stage]
        assert read(default) == schema().model_dump()[name], name
        published = config.PPO(preset="as-published").model_dump()[name] if stage == "ppo" else schema().model_dump()[name]
        assert (read(preset) if preset else read(default)) == published, name
    assert {name for _, name, _, preset, _ in settings() if preset} == set(config.AS_PUBLISHED)


def test_values_of_the_t5_config_are_those_of_its_plan():
    runs = plan.plan(study.load_study(files.resolve(T5)))
    first = {(run.stage, run.parameters["task"]): run.parameters for run in reversed(runs) if run.labels["route"] == "steps"}
    for stage, name, default, preset, written in settings():
        if name in ("evaluator", "seed"):  # the plan fills them in
            continue
        values = [read(part) for part in (written or preset or default).split(" / ")]
        assert [first[stage, task][name] for task in MARKED] == (values if len(values) > 1 else values * 3), name


def test_every_name_in_code_style_exists():
    schemas = [*config.STAGES.values(), study.Arm, study.Study]
    known = {field for schema in schemas for field in schema.model_fields} | set(config.STAGES)
    known |= {name for label in (*SECTIONS.values(), "derived", "choice", "backtest", "records") for name in documented(label)}
    properties = json.dumps([schema.model_json_schema() for schema in schemas])
    known |= set(re.findall(r'"([\w.-]+)"', properties)) | {"preset"}
    prose = re.sub(r"\{\w+(?::\w)?\}`[^`]*`|- \*Parameters\*: (?:.|\n)*?(?=\n- )", "", DETAILS + METRICS)
    used = set(re.findall(r"`([a-z]\w*)`", prose)) - known
    others = {"en_core_web_sm", "pysbd", "difflib", "quick_ratio"}  # of other libraries
    states = {"ok", "diverged", "failed", "blocked", "running", "start", "final", "best", "heldout", "sampled_", "test_"}
    states |= set(KINDS)
    assert used - others - states == set()
    for line in re.findall(r"^- \*Parameters\*: (.*?)\n- ", DETAILS, flags=re.MULTILINE | re.DOTALL):
        for name in re.findall(r"(?:^|;\s+)`(\w+)`", line):
            assert any(name in schema.model_fields for schema in schemas), name


# --- links to the code ------------------------------------------------------------------------------------------------------


def linked():
    prose = {path.name: path.read_text(encoding="utf-8") for path in BOOK.glob("*.md")}
    return {name for text in prose.values() for name in re.findall(r"\{src\}`([^`]+)`", text)}


def module_of(name):
    """The longest beginning of a dotted name that is a module of the package, or a folder of it."""
    parts = name.split(".")
    paths = {".".join(parts[:n]): files.ROOT.joinpath("paradox_utils", *parts[:n]) for n in (2, 1)}
    return next(module for module, path in paths.items() if path.with_suffix(".py").is_file() or path.is_dir())


def test_every_linked_function_exists():
    assert len(linked()) > 60
    for name in linked():
        module = module_of(name)
        found = importlib.import_module(f"paradox_utils.{module}")
        for part in filter(None, name.removeprefix(module).split(".")):
            assert hasattr(found, part), name
            found = getattr(found, part)


def test_a_link_leads_to_the_line_of_its_function(monkeypatch):
    monkeypatch.syspath_prepend(str(BOOK / "_ext"))
    links = importlib.import_module("source_links")
    for name in linked():
        module = module_of(name)
        own = name[len(module) + 1 :]
        if own:
            line = links.modules()[module].read_text(encoding="utf-8").splitlines()[links.lines(module)[own] - 1]
            assert re.match(rf"\s*(def |class )?{own.split('.')[-1]}\b", line), name


@pytest.mark.heavy
def test_a_name_that_is_gone_ends_the_build(tmp_path):
    """And one that exists leads to its own line, on a page without network."""
    ext = BOOK / "_ext"
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ext)!r})\nextensions = ['source_links', 'myst_parser']\n"
    )
    (tmp_path / "index.md").write_text("# Page\n\n{src}`ppo.objective.whiten`\n")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", tmp_path, tmp_path / "html"]
    done = subprocess.run(build, capture_output=True, text=True, cwd=files.ROOT)
    assert done.returncode == 0, done.stderr
    assert 'href="code/ppo.objective.html#whiten"' in (tmp_path / "html" / "index.html").read_text()
    assert re.search(r'<span id="whiten"></span>.*whiten', (tmp_path / "html" / "code" / "ppo.objective.html").read_text())
    (tmp_path / "index.md").write_text("# Page\n\n{src}`ppo.objective.whitten`\n")
    done = subprocess.run(build, capture_output=True, text=True, cwd=files.ROOT)
    assert done.returncode != 0
    assert "paradox_utils has no 'ppo.objective.whitten'" in done.stderr
