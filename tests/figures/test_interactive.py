"""What the interactives are given to draw, counted by hand."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import published
from paradox_utils.figures import interactive
from tests.worlds import curves_of, flat, lost, named, rising, world


def shown(figure):
    """The data that a page holds."""
    found = re.search(r'<script type="application/json">(.*)</script></div>$', figure.html())
    return json.loads(found[1])


def small(**options):
    return world(rising, rm_seeds=1, ppo_seeds=1, **{"accuracies": (0.6, 0.9, 0.75), "tasks": ("relevance",)} | options)


# --- the slider ---


def test_the_slider_has_every_run_in_the_order_of_accuracy():
    made = small()
    (group,) = shown(interactive.slider(made, curves_of(made)))["groups"]
    runs = made.sort_values("rm_accuracy")
    assert [run["accuracy"] for run in group["runs"]] == runs["rm_accuracy"].round(6).tolist()
    assert [run["end"] for run in group["runs"]] == runs["lm_performance_final"].round(6).tolist()
    assert [run["top"] for run in group["runs"]] == [False, False, True]
    assert (group["task"], group["before"]) == ("relevance", 0.5)


def test_rewards_are_running_means_over_five_updates():
    made = small(accuracies=(0.6,))
    curve = pd.DataFrame({"id": made["id"][0], "update": range(6), "reward_mean": [0.0, 1, 2, 3, 4, 10]})
    ((run,),) = (group["runs"] for group in shown(interactive.slider(made, curve))["groups"])
    assert run["paid"] == [1, 1.5, 2, 4, 4.75, 5.67]  # (0+1+2)/3, (0+…+3)/4, (0+…+4)/5, (1+…+10)/5, (2+…+10)/4, 17/3
    assert run["true"] == []  # not measured by this study


def test_a_run_that_broke_is_shown_as_far_as_it_was_measured():
    made = small(accuracies=(0.6,)).assign(status="diverged")
    curve = pd.DataFrame({"id": made["id"][0], "update": range(9), "reward_mean": [1.0, 1, *[np.nan] * 7]})
    ((run,),) = (group["runs"] for group in shown(interactive.slider(made, curve))["groups"])
    assert run["paid"] == [1, 1, 1, 1]
    assert "diverged" in run["name"]


def test_without_a_script_the_first_task_stands_still():
    made = small()
    page = interactive.slider(made, curves_of(made)).html()
    assert page.index('<div class="panels" role="img"') < page.index("<svg") < page.index("<p>Relevance, atlas-t5")


def test_runs_that_are_not_done_and_controls_are_not_on_the_slider():
    made = world(flat, rm_seeds=1, ppo_seeds=1, tasks=("factuality",))
    summary = pd.concat([lost(made, [0], "failed"), named(made, "dial")], ignore_index=True)
    (group,) = shown(interactive.slider(summary, curves_of(summary)))["groups"]
    assert len(group["runs"]) == len(made) - 1


def test_tasks_stand_in_their_order():
    made = world(flat, rm_seeds=1, ppo_seeds=1, tasks=("completeness", "factuality", "relevance"))
    groups = shown(interactive.slider(made, curves_of(made)))["groups"]
    assert [group["task"] for group in groups] == ["relevance", "factuality", "completeness"]


def test_without_rows_there_is_a_sentence_and_nothing_to_draw():
    made = small().assign(rm_accuracy=np.nan, rm_accuracy_noisy=np.nan)
    for figure in (interactive.slider(made, curves_of(made)), interactive.explorer(answers(made).head(0), small())):
        bundle = figure._repr_mimebundle_()
        assert bundle["text/html"] == f"<p>{bundle['text/plain']}</p>"


@pytest.mark.heavy
def test_the_same_tables_give_the_same_bytes_and_nothing_in_them_ends_the_script():
    made = small()
    made["setting"] = [f"name={'</script>' * (place > 0)}<b>" for place in range(len(made))]
    figures = [interactive.slider(made, curves_of(made)).html() for _ in range(2)]
    assert figures[0] == figures[1]
    assert figures[0].count("</script>") == 1
    names = [run["name"] for run in shown(interactive.slider(made, curves_of(made)))["groups"][0]["runs"]]
    assert sum("</script><b>" in name for name in names) == 2


def test_a_run_is_called_by_what_sets_it_apart_and_arms_of_one_training_have_one_most_accurate():
    made = small().assign(arm=["low", "high", "low"])
    made["setting"] = [f"rate=0.1, checkpoint_steps=[5, {step}], kl={step}" for step in (1, 2, 1)]
    (group,) = shown(interactive.slider(made, curves_of(made)))["groups"]
    assert [run["name"] for run in group["runs"]] == [
        f"training 0, step {step:g}, kl {kl}" for step, kl in zip(made["rm_step"].iloc[[0, 2, 1]], (1, 1, 2), strict=True)
    ]
    assert [run["top"] for run in group["runs"]] == [False, False, True]


# --- the published points ---


def test_points_have_the_values_of_every_policy_by_accuracy():
    made = {"task": "relevance", "rm_step": [10, 20, 30], "rm_accuracy": [0.7, 0.5, 0.6]}
    markers = pd.concat(
        [pd.DataFrame({"policy": p, **made, "lm_performance": y}) for p, y in {"b": [1, 2, 3], "a": [6, 5, 4]}.items()]
    )
    (group,) = shown(interactive.points(markers, published.bands(markers, 10, 0)))["groups"]
    assert [model["step"] for model in group["models"]] == [20, 30, 10]
    assert {panel["policy"]: panel["values"] for panel in group["panels"]} == {"b": [2, 3, 1], "a": [5, 4, 6]}
    assert [panel["policy"] for panel in group["panels"]] == ["b", "a"]
    assert [third["mean"] for third in group["panels"][0]["thirds"]] == [2, 3, 1]


# --- the axis picker ---


def test_predictors_stand_beside_the_gain():
    row = {"arm": "steps", "task": "relevance", "policy": "p", "rm_seed": 0, "setting": "", "group": "g", "cluster": "c"}
    known = {
        "rm_step": [1, 2, 3, 4],
        "rm_accuracy": [0.9, 0.6, 0.7, np.nan],
        "f1": [3, 1, np.nan, 9],
        "gain": [0.1, 0.2, 0.3, 0.9],
    }
    table = pd.DataFrame(row | known)
    data = shown(interactive.predictors(table, {"rm_accuracy": "accuracy", "f1": "F1"}))
    (group,) = data["groups"]
    assert data["measures"] == ["accuracy", "F1"]
    assert [model["known"] for model in group["models"]] == [[0.6, 1], [0.7, None], [0.9, 3]]
    assert [model["gain"] for model in group["models"]] == [0.2, 0.3, 0.1]
    assert group["correlations"] == [-0.5, None]  # ranks 1 2 3 and 2 3 1; of two pairs there is none
    assert not interactive.predictors(table.assign(rm_accuracy=np.nan), {"f1": "F1"}).data


# --- the explorer ---


def answers(runs):
    """A good answer before PPO, the same for all; after it, one whose second segment is an error that is paid."""
    before = {"when": "start", "text": "so.", "ends": (3.0,), "judged": (1.0,)}
    after = {"when": "final", "text": "so. no.", "ends": (3.0, 7.0), "paid": (0.3, 0.3), "judged": (1.0, -1.0)}
    rows = [before | {"id": run, "paid": (0.1 * place,)} for place, run in enumerate(runs["id"])]
    return pd.DataFrame(rows + [after | {"id": run} for run in runs["id"]]).assign(question="who?")


def test_the_explorer_keeps_each_answer_once_and_what_every_run_paid_for_it():
    made = small()
    data = shown(interactive.explorer(answers(made), made))
    (group,) = data["groups"]
    assert [text["text"] for text in data["texts"]] == ["so.", "so. no."]
    assert [run["before"] for run in group["runs"]] == [{"0": [0, [paid]]} for paid in (0, 0.2, 0.1)]  # by accuracy
    assert all(run["after"] == {"0": [1, [0.3, 0.3]]} for run in group["runs"])
    assert (group["size"], group["whole"]) == (0.3, False)
    assert [run["nothing"] for run in group["runs"]] == [0.65, None, None]  # 0.6 is no better than always the same
    assert group["start"] == 1
    assert [run["top"] for run in group["runs"]] == [False, False, True]


def test_the_explorer_has_controls_and_leaves_out_what_was_not_answered():
    made = small()
    summary = pd.concat([made, named(made.head(1), "dial")], ignore_index=True)
    found = answers(summary)
    found = found[~((found["id"] == made["id"][1]) & (found["when"] == "final"))]
    (group,) = shown(interactive.explorer(found, summary))["groups"]
    assert len(group["runs"]) == 3
    assert sum("set, not learned" in run["name"] for run in group["runs"]) == 1


@pytest.mark.parametrize("value", [0.5, -1.0, 3.0])
def test_numbers_are_as_short_as_json_has_them(value):
    assert json.dumps(interactive._rounded(value)) == f"{value:g}"
