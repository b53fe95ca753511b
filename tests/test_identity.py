"""Hashes that change with what can change a number, and with nothing else."""

import ast

import nbformat
import pytest

from paradox_utils import config, files, identity

MODULES = {
    "__init__": "",
    "config/__init__": "",
    "states": "keep = 2",
    "data/__init__": "from paradox_utils.data import records",
    "data/records": "deep = 1",
    "policies/__init__": "",
    "policies/models": "from paradox_utils.data.records import deep",
    "rewards/__init__": "",
    "rewards/examples": "marks = 3",
    "rewards/judges": "size = 0.3",
    "ppo/__init__": "",
    "ppo/loop": "def late():\n    from paradox_utils.rewards import judges",
    "stages/supervised": "from paradox_utils.policies import models",
    "stages/feedback": "",
    "stages/reward_model": "",
    "stages/ppo": "from paradox_utils.ppo import loop",
    "figures/__init__": "",
    "figures/run": "ink = 1",
    "study/__init__": "plans = 1",
}
CELLS = (
    ("parameters", "seed = 0"),
    ("", "%matplotlib inline\nfrom paradox_utils.stages import ppo\nppo.run(seed)"),
    ("figure", "from paradox_utils.figures import run\nrun.draw()"),
    ("finding", "print(1)"),
)


def notebook(path, *cells):
    """Write a notebook of (tag, source) cells."""
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}) for tag, source in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("words"), *made]), path)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in the shape of the real one, and a notebook a stage."""
    for name, text in MODULES.items():
        path = tmp_path / "paradox_utils" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(identity, "PACKAGE", tmp_path / "paradox_utils")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    for path in identity.NOTEBOOKS.values():
        notebook(tmp_path / path, *CELLS)
    return tmp_path / "paradox_utils"


def codes():
    return {stage: identity.total(identity.code_of(stage)) for stage in identity.MAKERS}


RENAMES = {
    "states": {"supervised", "reward_model", "ppo"},
    "data/records": {"supervised", "feedback", "reward_model", "ppo"},
    "policies/models": {"supervised", "feedback", "reward_model", "ppo"},
    "rewards/examples": {"feedback", "reward_model", "ppo"},
    "rewards/judges": {"reward_model", "ppo"},
    "ppo/loop": {"ppo"},
    "stages/supervised": {"supervised"},
    "stages/ppo": {"ppo"},
    "figures/run": set(),
    "study/__init__": set(),
    "config/__init__": set(),
}


@pytest.mark.parametrize("module", RENAMES)
def test_an_edit_renames_the_runs_of_the_stages_that_declare_the_file_and_no_others(package, module):
    before = codes()
    path = package / f"{module}.py"
    path.write_text(path.read_text() + "\nedited = 1")
    assert {stage for stage, code in codes().items() if code != before[stage]} == RENAMES[module]


@pytest.mark.parametrize(
    "text",
    [
        '"""What it is."""\n\n# why\ndeep = 1  # as published\n',
        "\n\ndeep = 1   \r\n",
        '"""Of two\nlines."""\ndeep = 1',
    ],
)
def test_comments_docstrings_and_blank_lines_are_no_code(package, text):
    before = codes()
    (package / "data/records.py").write_bytes(text.encode())
    assert codes() == before


def test_docstrings_of_functions_and_classes_are_no_code_and_other_strings_are():
    plain = "class A:\n    def f(self):\n        return 1\n"
    told = (
        'class A:\n    """A."""\n\n    def f(self):\n        """One.\n\n        # two\n        """\n        return 1  # one\n'
    )
    assert identity._stripped(told) == identity._stripped(plain)
    assert identity._stripped('a = "# no comment"') == 'a = "# no comment"'
    assert identity._stripped('a = 1\n"""not a docstring"""') != identity._stripped("a = 1")


@pytest.mark.parametrize("quote", ['"""', 'f"""'])
def test_what_stands_in_a_string_of_several_lines_is_code(quote):
    text = f'a = {quote}b\n\n  c  \n# d\n"""  # why\n\ne = 1\n'
    assert identity._stripped(text) == f'a = {quote}b\n\n  c  \n# d\n"""\ne = 1'
    assert identity._stripped('a = (\n    "b"  # why\n\n    "c"\n)') == 'a = (\n    "b"\n    "c"\n)'


def test_cells_that_show_change_no_run_and_those_that_make_do(package, tmp_path):
    path, before = tmp_path / identity.NOTEBOOKS["ppo"], codes()
    same = [
        ("parameters", "seed = 1"),
        CELLS[1],
        ("figure", "draw(2)"),
        ("finding", "print(2)"),
    ]
    content = nbformat.read(notebook(path, *same), 4)
    content.cells[0].source = "other words"
    content.cells[2].outputs = [nbformat.v4.new_output("stream", text="7")]
    nbformat.write(content, path)
    assert codes() == before
    notebook(path, CELLS[0], ("", "from paradox_utils.stages import ppo\nppo.run(2)"))
    assert {stage for stage, code in codes().items() if code != before[stage]} == {"ppo"}


def test_a_page_is_made_by_all_that_its_cells_import_and_by_its_cells(package, tmp_path):
    path = notebook(tmp_path / "page.ipynb", *CELLS)
    before = identity.page_code(path)
    for module, changes in {"figures/run": True, "ppo/loop": True, "rewards/judges": True, "study/__init__": False}.items():
        file = package / f"{module}.py"
        text = file.read_text()
        file.write_text(text + "\nedited = 1")
        assert (identity.page_code(path) != before) is changes, module
        file.write_text(text)
    assert identity.page_code(notebook(path, ("parameters", "seed = 1"), *CELLS[1:])) == before
    assert identity.page_code(notebook(path, *CELLS[:2], ("figure", "draw(2)"))) != before


@pytest.mark.parametrize("stage", identity.MAKERS)
def test_no_cell_that_makes_numbers_reads_what_a_cell_that_shows_has_made(stage):
    """Else an edit to the second would change numbers and rename no run."""
    made, shown = set(), set()
    for cell in nbformat.read(files.resolve(identity.NOTEBOOKS[stage]), 4).cells:
        if cell.cell_type != "code":
            continue
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        stored, read = ({node.id for node in names if isinstance(node.ctx, kind)} for kind in (ast.Store, ast.Load))
        if identity.SHOWS & set(cell.metadata.get("tags", [])):
            shown |= stored - made
        else:
            assert not read & (shown - stored - {"p"}), cell.source
            made |= stored


# What holds no number of a stage: parameters are in a run's id as they are resolved, and these write results down or show them.
BESIDE = {
    "__init__.py",
    "config/__init__.py",
    "config/choose.py",
    "config/pages.py",
    "config/stages.py",
    "config/words.py",
    "files.py",
    "threads.py",
    "results.py",
    "identity.py",
    "stages/__init__.py",
    "rewards/__init__.py",
}


@pytest.mark.parametrize("stage", identity.MAKERS)
def test_what_a_stage_declares_is_what_it_imports(stage):
    """Every module that the cells of its notebook import is declared, and no folder is declared in vain."""
    source = "\n".join(identity.cells(files.resolve(identity.NOTEBOOKS[stage]), identity.SHOWS))
    imported = {path.relative_to(identity.PACKAGE).as_posix() for path in identity.imported(source, stage).values()}
    imported = {file for file in imported if not file.startswith("figures/")}  # draws what was made
    assert imported - BESIDE <= identity.code_of(stage).keys()
    for part in identity.MAKERS[stage]:
        assert any(file == part or file.startswith(f"{part}/") for file in imported), part


def test_what_made_a_state_names_parameters_data_and_code(package):
    first = identity.made_by(config.PPO(out="a", resume_every=1))
    assert identity.made_by(config.PPO(out="b")) == first
    assert identity.made_by(config.PPO(seed=1)) != first
    (package / "ppo/loop.py").write_text("edited = 1")
    assert identity.made_by(config.PPO()) != first


@pytest.mark.parametrize(
    "tags", [("", "", ""), ("parameters", "parameters", ""), ("", "", "parameters"), ("parameters", "injected-parameters", "")]
)
def test_a_notebook_whose_parameters_would_not_take_effect_is_refused(tmp_path, tags):
    path = notebook(tmp_path / "a.ipynb", *zip(tags, ("seed = 0", "p = check_notebook(seed)", "run(p)"), strict=True))
    with pytest.raises(files.FileError, match=r"a\.ipynb: .*`parameters`"):
        identity.cells(path, identity.SHOWS)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": 1}', '{"cells": [1]}', "not json", "[" * 200_000])
def test_an_unreadable_notebook_is_named(tmp_path, text):
    (tmp_path / "a.ipynb").write_text(text)
    with pytest.raises(files.FileError, match=r"a\.ipynb: "):
        identity.page_code(tmp_path / "a.ipynb")
    with pytest.raises(files.FileError, match=r"b\.ipynb"):
        identity.page_code(tmp_path / "b.ipynb")


def test_a_cell_that_is_not_python_is_named(package, tmp_path):
    with pytest.raises(files.FileError, match="is not Python"):
        identity.page_code(notebook(tmp_path / "a.ipynb", CELLS[0], ("", "def")))


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    assert identity.commit() == ""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "a.txt").write_text("1")
    for words in (["init", "-q"], ["add", "a.txt"], ["commit", "-q", "-m", "first"]):
        identity.subprocess.run([*git, *words], cwd=tmp_path, check=True)
    clean = identity.commit()
    assert len(clean) == 40
    (tmp_path / "a.txt").write_text("2")
    assert identity.commit() == clean + "+"


def test_data_hash_follows_the_files_a_stage_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa/dev.json").write_text("[]")
    p = config.RewardModel(source="qa-feedback", data="qa", backbone="mine")
    first = identity.data_hash(p)
    (tmp_path / "qa/notes.txt").write_text("no data")
    assert identity.data_hash(p) == first
    (tmp_path / "qa/dev.json").write_text("[1]")
    second = identity.data_hash(p)
    assert second != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/model.safetensors").write_bytes(b"\0" * 200_000)
    third = identity.data_hash(p)
    assert third != second
    (tmp_path / "mine/model.safetensors").write_bytes(b"\0" * 199_999 + b"\1")
    assert identity.data_hash(p) != third
    assert identity.data_hash(config.RewardModel()) == identity.data_hash(config.RewardModel(seed=5))
    assert identity.data_hash(config.RewardModel()) != identity.data_hash(config.RewardModel(world_seed=1))


def test_data_hash_follows_every_reward_model_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    names = ("one", "two-relevance", "three")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"1")
    p = config.PPO(reward_model="one", other_reward_models=["two-{task}", "three"])
    known = {identity.data_hash(p)}
    for name in names:
        (tmp_path / name / "model.safetensors").write_bytes(b"2")
        known.add(identity.data_hash(p))
    assert len(known) == 4


def test_neither_code_nor_data_depends_on_how_lines_end(package, tmp_path):
    path = notebook(tmp_path / "page.ipynb", *CELLS)
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa/dev.json").write_bytes(b"[\n1]\n")
    p = config.RewardModel(source="qa-feedback", data=str(tmp_path / "qa"))
    before = codes(), identity.page_code(path), identity.data_hash(p)
    for file in [path, tmp_path / "qa/dev.json", *package.rglob("*.py")]:
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert (codes(), identity.page_code(path), identity.data_hash(p)) == before


def test_files_known_already_are_not_read_again(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"1")
    known = {}
    first = identity.data_hash(config.PPO(policy=str(tmp_path / "model")), known)
    assert first == identity.data_hash(config.PPO(policy=str(tmp_path / "model")))
    weights.write_bytes(b"2")
    assert identity.data_hash(config.PPO(policy=str(tmp_path / "model")), known) == first
    assert identity.data_hash(config.PPO(policy=str(tmp_path / "model"))) != first
