"""What the command builder offers: every notebook with its own values, every parameter, every study."""

import json
import re

import pytest
import yaml

from paradox_utils import config, files
from paradox_utils.config.study import studies
from paradox_utils.pages import commands
from paradox_utils.pages.freshness import pages


@pytest.fixture(scope="module")
def offered():
    return json.loads(re.search(r'<script type="application/json">(.*)</script>', commands.command_builder())[1])


@pytest.mark.heavy
def test_every_notebook_is_offered_with_the_values_it_starts_from(offered):
    known = {notebook["name"]: notebook for notebook in offered["notebooks"]}
    assert list(known) == [path.stem for path in pages()]
    assert known["04-ppo"]["schema"] == "PPO"
    assert known["01-data"]["values"]["prompts"] == 300  # the notebook's own, not the schema's
    assert config.FeedbackParameters().prompts != 300
    assert all(
        set(notebook["values"]) == {field["name"] for field in fields_of(offered, notebook)} for notebook in known.values()
    )


def fields_of(offered, notebook):
    return offered["schemas"][notebook["schema"]]


def test_a_parameter_says_what_it_takes(offered):
    fields = {field["name"]: field for field in offered["schemas"]["PPO"]}
    assert fields["reward"]["choices"] == ["model", "dial", "constant", "length"]
    assert (fields["dial_accuracy"]["minimum"], fields["dial_accuracy"]["maximum"]) == (0, 1)
    assert fields["dial_accuracy"]["allowed"] == "number ≥ 0 ≤ 1"
    assert fields["max_gradient_norm"]["kind"] == ""  # a number, or none
    (chosen,) = (field for field in offered["schemas"]["RewardModel"] if field["name"] == "global_attention")
    assert chosen["choices"] == ["True", "False"]
    (steps,) = (field for field in offered["schemas"]["RewardModel"] if field["name"] == "checkpoint_steps")
    assert (steps["kind"], steps["choices"]) == ("array", None)


def test_every_study_is_offered_with_what_it_is_about(offered):
    paths = studies(files.ROOT / "configs")
    assert [study["name"] for study in offered["configs"]] == [path.stem for path in paths]
    assert {"quick", "atlas", "choose-backtest"} <= {path.stem for path in paths}
    assert "choose-atlas" not in {path.stem for path in paths}
    quick = next(study for study in offered["configs"] if study["name"] == "quick")
    assert quick["about"] == yaml.safe_load((files.ROOT / "configs/quick.yaml").read_text())["about"]
