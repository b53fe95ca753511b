"""The interactives in a browser, on small pages read from the disk: mouse, keys, a phone's width, both themes, no script."""

import pandas as pd
import pytest
import yaml

from paradox_utils import files
from paradox_utils.analysis import published, regrets, teachers
from paradox_utils.figures import interactive
from paradox_utils.pages import commands
from tests.worlds import curves_of, rising, world

pytestmark = pytest.mark.heavy

STATIC = files.ROOT / "book" / "static"
RUNS = ("slider", "points", "explorer", "predictors")  # with a slider over reward models
KINDS = (*RUNS, "regrets", "commands", "filter")
MEASURES = {"rm_accuracy": "accuracy", "kl_level": "KL"}
THEMES = """
html { color-scheme: light; background: #fff; color: #323232 }
html[data-theme="dark"] { color-scheme: dark; background: #121212; color: #ced6dd; --pst-color-background: #121212;
  --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af }
body { font: 16px/1.6 sans-serif; max-width: 760px; margin: 1rem auto; padding: 0 1rem }
"""
COMPARED = [
    ("steps", "", "", "all runs together", 0.0, 0.0, 0.026, "not supported", True),
    ("steps", "relevance", "", "relevance", 0.06, 0.05, 0.13, "supported", True),
    ("steps", "relevance", "small", "relevance, small", -0.01, -0.1, 0.25, "undecided", False),
    ("steps", "factuality", "large", "factuality, large", -0.05, -0.2, 0.1, "undecided", False),
    ("dial", "relevance", "small", "relevance, small", 0.0, 0.0, 0.01, "not supported", False),
]
TABLE = """
<section><h2>One</h2><table><thead><tr><th>name</th><th>meaning</th></tr></thead><tbody>
<tr><td>kl</td><td>divergence</td></tr><tr><td>reward</td><td>what is paid</td></tr></tbody></table></section>
<section><h2>Two</h2><table><thead><tr><th>name</th><th>meaning</th></tr></thead><tbody>
<tr><td>kl_final</td><td>the last divergence</td></tr></tbody></table></section>
"""


@pytest.fixture(scope="module")
def study():
    """A study of two tasks, two trainings of three reward models, and answers of some segments."""
    made = world(rising, rm_seeds=2, ppo_seeds=1, accuracies=(0.6, 0.9, 0.75), tasks=("relevance", "completeness"))
    rows = []
    for run in made.itertuples():
        paid = (0.3, 0.3) if run.rm_step == 0 else (0.3, -0.3)
        answer = {"id": run.id, "text": "so it is. no, it is.", "ends": (9.0, 20.0), "paid": paid, "judged": (1.0, -1.0)}
        if run.task == "completeness":
            answer |= {"ends": (20.0,), "paid": (0.21,), "judged": (0.75,)}
        rows += [answer | {"when": when, "question": q} for when in ("start", "final") for q in ("who?", "what, of all?")]
    return made, pd.DataFrame(rows)


@pytest.fixture(scope="module")
def bodies(study):
    """What stands in a page, by kind."""
    made, answers = study
    markers = published.load_published(files.ROOT / "book" / "published").markers
    return {
        "slider": interactive.slider(made, curves_of(made)).html(),
        "points": interactive.points(markers, published.bands(markers, 100, 0)).html(),
        "explorer": interactive.explorer(answers, made).html(),
        "predictors": interactive.predictors(teachers.teacher_table(made, curves_of(made)), MEASURES).html(),
        "regrets": interactive.regrets(pd.DataFrame(COMPARED, columns=regrets.ROW), 0.04).html(),
        "commands": commands.command_builder(),
        "filter": '<div class="interactive" data-kind="filter" role="search"></div>' + TABLE,
    }


@pytest.fixture
def opened(browser, bodies, tmp_path):
    """Opens a page of a kind, as the book loads it; at the end nothing was logged as an error or fetched from elsewhere."""
    scripts = yaml.safe_load((files.ROOT / "_config.yml").read_text())["sphinx"]["config"]["html_js_files"]
    tags = "".join(f'<script defer src="{(STATIC / name).as_uri()}"></script>' for name, _ in scripts)
    style = f'<link rel="stylesheet" href="{(STATIC / "interactive.css").as_uri()}"><style>{THEMES}</style>'
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>A page</title>{style}{tags}'
    wrong, contexts = [], []

    def open_page(kind, width=1440, theme="light", **options):
        body = f"<body><main><h1>A page</h1><article>{bodies[kind]}</article></main></body>"
        path = tmp_path / f"{kind}.html"
        path.write_text(f'<!doctype html><html lang="en" data-theme="{theme}"><head>{head}</head>{body}</html>')
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def said(page):
    return page.locator(".said").inner_text()


# --- what they answer ---


@pytest.mark.parametrize("kind", RUNS)
def test_the_keyboard_walks_over_the_reward_models(opened, kind):
    page, found = opened(kind), []
    start = said(page)
    page.get_by_role("slider").focus()
    for key in ("Home", "ArrowRight", "ArrowRight", "End"):
        page.keyboard.press(key)
        found.append(said(page))
    assert len(set(found)) == 4  # two steps from the least accurate, and the most accurate
    assert start == found[2 if kind == "explorer" else -1]  # the first that knows something
    assert kind == "predictors" or "the most accurate" in found[-1]
    assert page.get_by_role("slider").get_attribute("aria-valuetext").startswith("accuracy 0.")


@pytest.mark.parametrize("kind", RUNS)
def test_the_keyboard_reaches_every_control_and_changes_the_task(opened, kind):
    page = opened(kind)
    before = said(page)
    page.keyboard.press("Tab")  # the chosen task
    page.keyboard.press("ArrowRight")
    assert page.locator(":checked").first.get_attribute("value") != "relevance"
    assert said(page) != before
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range"


@pytest.mark.parametrize(
    ("kind", "touch"), [("slider", False), ("points", False), ("predictors", False), ("slider", True), ("points", True)]
)
def test_the_nearest_point_is_chosen_by_mouse_and_finger(opened, kind, touch):
    page = opened(kind, width=390 if touch else 1440, has_touch=touch)
    before, dot = said(page), page.locator("svg").first.locator("circle.dot").first.bounding_box()
    x, y = dot["x"] + dot["width"] / 2 - 3, dot["y"] + dot["height"] / 2 + 3  # near it is enough
    page.touchscreen.tap(x, y) if touch else page.mouse.move(x, y)
    assert said(page) != before
    chosen = page.locator("svg").first.locator("circle.chosen").bounding_box()
    assert abs(chosen["x"] + chosen["width"] / 2 - x) < 6
    assert page.get_by_role("slider").input_value() == "0"  # the first dot is the least accurate reward model's


def test_the_slider_says_where_a_policy_ends(opened, study):
    runs = study[0][study[0]["task"] == "relevance"].sort_values("rm_accuracy")
    page = opened("slider")
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    run = runs.iloc[0]
    assert f"Accuracy {run.rm_accuracy:.3f} (training {run.rm_seed}, step 0)" in said(page)
    assert f"0.50 → {run.lm_performance_final:.2f}" in said(page)
    handle = page.locator(".range .at")
    assert handle.inner_text() == f"accuracy {run.rm_accuracy:.3f}, training {run.rm_seed}, step 0"
    assert "pays +1.60" in said(page)  # the mean of the last three of 0.5 + 0.1 · update


def test_points_say_ranks(opened):
    markers = published.load_published(files.ROOT / "book" / "published").markers
    rows = published.standing(markers).set_index("task").loc["relevance"]
    text = said(opened("points"))
    assert all(f"{row.policy} {row.top_performance:.2f} (rank {row.top_rank})" in text for row in rows.itertuples())


def test_the_explorer_counts_what_the_reward_model_tells_right(opened):
    page = opened("explorer")
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    assert "right about 1 of 2 segments and pays +0.6; they are worth 0.0" in said(page)
    assert "; one that knows nothing has 0.650)" in said(page)
    page.keyboard.press("End")
    assert "right about 2 of 2 segments and pays 0.0; they are worth 0.0" in said(page)
    page.keyboard.press("Home")
    answer = page.locator(".answer").first
    assert answer.locator(".segment.bad.rewarded .words").inner_text() == "no, it is."
    assert "an error" in answer.locator(".segment.bad .aloud").text_content()
    page.get_by_text("Completeness").click()
    assert "scores 0.75 and is paid +0.21" in said(page)
    assert page.locator(".answer").first.locator(".segment").count() == 1


def test_the_axis_picker_shows_another_measure_of_the_same_reward_model(opened):
    page = opened("predictors")
    before, dot = said(page), page.locator("circle.chosen").bounding_box()
    page.get_by_role("combobox").select_option("KL")
    after = page.locator("circle.chosen").bounding_box()
    assert said(page).split(":")[0] == before.split(":")[0]
    assert "KL" in said(page)
    assert abs(dot["y"] - after["y"]) < 0.1  # the gain is the same
    assert dot["x"] != after["x"]


def compared(page):
    return page.locator("table.regrets tbody th").all_inner_texts()


def test_a_route_a_task_and_a_policy_choose_among_the_regrets(opened):
    page = opened("regrets")
    assert said(page) == "4 comparisons: the paper is supported in 1, not supported in 1, undecided in 2."
    page.get_by_text("Relevance", exact=True).click()
    assert compared(page) == ["relevance", "each task and policy alone", "relevance, small"]
    page.get_by_text("large", exact=True).click()
    assert said(page) == "No comparison of these has what the rule needs."
    page.locator("fieldset").first.get_by_text("All", exact=True).click()
    assert said(page) == "1 comparison: the paper is undecided in 1."
    page.locator("fieldset").nth(1).get_by_text("All", exact=True).click()
    page.get_by_role("combobox", name="route").select_option("All")
    assert compared(page)[-1] == "dial: relevance, small"


def test_of_many_regrets_those_over_several_come_first(opened):
    page = opened("regrets")
    assert page.get_by_role("button").count() == 0  # few
    page.evaluate("PARADOX.regrets.few = 3")
    page.get_by_text("Relevance", exact=True).click()
    page.locator("fieldset").first.get_by_text("All", exact=True).click()
    assert compared(page) == ["all runs together", "relevance"]
    page.get_by_role("button", name="Show all 4").click()
    assert compared(page)[2:] == ["each task and policy alone", "relevance, small", "factuality, large"]


def test_the_keyboard_chooses_among_the_regrets(opened):
    page = opened("regrets")
    for key in ("Tab", "Tab", "ArrowRight", "Tab", "ArrowRight"):  # the route stays; the first task, the first policy
        page.keyboard.press(key)
    assert compared(page) == ["relevance, small"]
    assert said(page) == "1 comparison: the paper is undecided in 1."


def test_a_regret_s_interval_lies_on_the_scale_below_it(opened):
    page = opened("regrets")
    zero, mark = (page.locator(f".regrets tbody tr:first-child .{kind}").bounding_box() for kind in ("zero", "mark"))
    assert abs(zero["x"] - mark["x"] - mark["width"] / 2) < 1  # a regret of zero
    band = page.locator(".regrets tbody tr:first-child .band").bounding_box()
    bar = page.locator(".regrets tbody tr:first-child .bar").bounding_box()
    assert band["x"] < bar["x"]
    assert band["x"] + band["width"] > bar["x"] + bar["width"]
    tick = page.locator(".regrets .ticks span", has_text="0.0").first.bounding_box()
    assert abs(tick["x"] + tick["width"] / 2 - zero["x"]) < 2


def test_the_explorer_keeps_the_question_asked(opened):
    page = opened("explorer")
    page.get_by_role("combobox", name="question").select_option("1")
    page.get_by_role("slider").focus()
    page.keyboard.press("End")
    assert page.get_by_role("combobox", name="question").locator(":checked").inner_text() == "2. what, of all?"


def notebook(page, name):
    box = page.get_by_role("combobox", name="notebook")
    box.select_option(label=next(text for text in box.locator("option").all_inner_texts() if text.startswith(f"{name}: ")))


def test_the_command_builder_writes_the_line(opened):
    page = opened("commands")
    line = page.get_by_label("The command")
    notebook(page, "04-ppo")
    page.get_by_role("combobox", name="parameter").select_option(label="kl_coefficient")
    page.get_by_role("spinbutton", name="kl_coefficient").fill("0.1")
    page.get_by_role("combobox", name="parameter").select_option(label="task")
    page.get_by_role("combobox", name="task").select_option("factuality")
    kept = line.inner_text()
    assert kept.startswith("papermill notebooks/04-ppo.ipynb out.ipynb ")
    assert "-p kl_coefficient 0.1" in kept
    assert "-p task factuality" in kept
    page.get_by_label("Leave out task").click()
    assert "-p task" not in line.inner_text()
    page.get_by_role("button", name="Copy").click()
    assert said(page) == "Copied."
    page.get_by_text("a whole study").click()
    page.get_by_role("combobox", name="study").select_option("quick")
    page.get_by_label("runs at a time").fill("2")
    assert line.inner_text() == "make study CONFIG=configs/quick.yaml WORKERS=2"


def test_lists_are_given_as_papermill_reads_them_and_a_shell_leaves_them(opened):
    page = opened("commands")
    notebook(page, "03-reward-model")
    page.get_by_role("combobox", name="parameter").select_option(label="checkpoint_steps")
    page.get_by_role("textbox", name="checkpoint_steps").fill("[0, 10]")
    page.get_by_role("combobox", name="parameter").select_option(label="out")
    page.get_by_role("textbox", name="out").fill("it's mine")
    assert "-y 'checkpoint_steps: [0, 10]'" in page.get_by_label("The command").inner_text()
    assert r"-p out 'it'\''s mine'" in page.get_by_label("The command").inner_text()


def test_the_filter_keeps_the_rows_that_have_every_word(opened):
    page = opened("filter")
    assert said(page) == "3 of 3 rows."
    page.get_by_label("show rows with").fill("KL last")
    assert said(page) == "1 of 3 rows."
    assert page.locator("tbody tr:visible").all_inner_texts() == ["kl_final\tthe last divergence"]
    assert page.get_by_role("heading", name="One").is_hidden()
    page.get_by_label("show rows with").fill("")
    assert page.locator("tbody tr:visible").count() == 3


# --- for everybody ---


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_the_page_and_nothing_keeps_readers_out(opened, kind, width, theme):
    from axe_playwright_python.sync_playwright import Axe

    page = opened(kind, width, theme)
    if kind == "commands":
        page.get_by_role("combobox", name="parameter").select_option(index=1)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = [
        f"{rule['id']}: {rule['help']}"
        for rule in Axe().run(page, options={"preload": False}).response["violations"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert found == []
    for control in page.locator("select:visible, button:visible, input[type=range]:visible, .pills span:visible").all():
        assert control.bounding_box()["height"] >= 32


@pytest.mark.parametrize("kind", ["slider", "points", "predictors"])
def test_a_turned_phone_is_drawn_anew(opened, kind):
    page = opened(kind, width=390)
    narrow = page.locator("svg").first.bounding_box()["width"]
    page.set_viewport_size({"width": 844, "height": 390})
    page.wait_for_function(f"document.querySelector('svg').getBoundingClientRect().width !== {narrow}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 844


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_without_scripts_a_sentence_stands_there(opened, kind):
    page = opened(kind, java_script_enabled=False)
    assert page.locator(".interactive").inner_text().strip().endswith(".")


@pytest.mark.parametrize("kind", RUNS)
def test_paper_shows_a_still(opened, kind):
    page = opened(kind)
    page.emulate_media(media="print")
    assert page.locator(".controls").is_hidden()
    assert page.locator(".panels").is_visible()
    assert said(page)
