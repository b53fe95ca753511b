"""The schemas: what is refused, in which words, and what a config file may say."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paradox_utils import config
from paradox_utils.config import PPO, ParameterError, RewardModel
from paradox_utils.config.study import Study, load_study


@pytest.mark.parametrize("schema", config.STAGES.values())
def test_defaults_are_valid_and_survive_a_round_trip(schema):
    values = schema().model_dump()
    assert config.check(schema, values).model_dump() == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kl_coef": 0.1}, r"unknown parameter 'kl_coef' = 0.1; the nearest existing name is 'kl_coefficient' \(number ≥ 0"),
        ({"sed": 1}, r"'sed' = 1; the nearest existing name is 'seed' \(integer ≥ 0 < 4294967296, default 0"),
        ({"updates": "40"}, r"updates = '40': .*integer.*allowed: integer ≥ 0, default 40"),
        ({"updates": -1}, r"updates = -1: .*allowed: integer ≥ 0"),
        ({"updates": 1.5}, r"updates = 1.5: "),
        ({"learning_rate": 0.0}, r"learning_rate = 0.0: .*allowed: number > 0"),
        ({"discount": 1.1}, r"discount = 1.1: .*allowed: number ≥ 0 ≤ 1"),
        ({"task": "helpfulness"}, r"task = 'helpfulness': .*'relevance' \| 'factuality' \| 'completeness'"),
        ({"decay": "yes"}, r"decay = 'yes': "),
        ({"kl_stop": 0.0}, r"kl_stop = 0.0: .*unset"),
        ({"source": "qa-feedback"}, r"evaluator = 'oracle': only source = 'atlas' has one"),
        ({"source": "qa-feedback", "evaluator": "rm", "reward": "dial"}, r"reward = 'dial': a control needs the labels"),
        ({"scale_matched": True, "dial_accuracy": 0.5}, r"dial_accuracy = 0.5: a scale-matched dial needs more than 0.5"),
        ({"whitening": "none", "whiten_padding": True}, r"whiten_padding = True: needs a whitening"),
        (
            {"source": "qa-feedback", "evaluator": "rm", "reward": "constant"},
            r"reward = 'constant': a control needs the labels",
        ),
        ({"source": "qa-feedback", "evaluator": "rm", "reward": "length"}, r"reward = 'length': a control needs the labels"),
        ({"reward": "size"}, r"reward = 'size': .*'model' \| 'dial' \| 'constant' \| 'length'"),
        ({"normalise_reward": True, "reward": "dial"}, r"normalise_reward = True: on segments it needs reward = 'model'"),
        ({"normalise_reward": True, "reward": "length", "task": "factuality"}, r"normalise_reward = True: on segments"),
        ({"normalise_reward": True, "source": "qa-feedback", "evaluator": "rm"}, r"needs .* the feedback of source = 'atlas'"),
        (
            {"task": "completeness", "reward": "dial", "dial_accuracy": 0.5},
            r"dial_accuracy = 0.5: noise on a score orders more",
        ),
        ({"probe_samples": 0}, r"probe_samples = 0: .*allowed: integer ≥ 1"),
        ({"probe_prompts": -1}, r"probe_prompts = -1: .*allowed: integer ≥ 0"),
        ({"stress_records": -1}, r"stress_records = -1: .*allowed: integer ≥ 0"),
        ({"stress_records": 5, "reward": "dial"}, r"stress_records = 5: .*reward = 'model'"),
        ({"stress_records": 5, "source": "qa-feedback", "evaluator": "rm"}, r"stress_records = 5: .*source = 'atlas'"),
        ({"updates": 1e3}, r"updates = 1000.0: .*\b1000\b"),
        ({"updates": 10**26}, r"updates = 1\d+: "),
        ({"seed": 2**32}, r"seed = 4294967296: "),
        ({"dial_seed": 2**63}, r"dial_seed = \d+: "),
        ({"world_seed": -1}, r"world_seed = -1: "),
        ({"train_questions": 10**11}, r"train_questions = \d+: "),
        ({"train_questions": 0}, r"train_questions = 0: .*source = 'atlas'"),
        ({"prompts_per_update": 9, "train_questions": 8}, r"prompts_per_update = 9: .*train_questions = 8"),
        ({"prompts_per_update": 10**6}, r"prompts_per_update = 1000000: "),
        ({"samples_per_prompt": 10**6}, r"samples_per_prompt = 1000000: "),
        ({"response_limit": 10**6}, r"response_limit = 1000000: "),
        ({"prompts_per_update": 128, "samples_per_prompt": 128}, r"samples_per_prompt = 128: .*prompts_per_update = 128"),
        ({"task": "x" * 10_000}, r"task = 'x{50,100}…: "),
        ({"others": "minimum"}, r"others = 'minimum': has no effect without other_reward_models"),
        ({"other_reward_models": ["a"], "reward": "dial"}, r"other_reward_models: has no effect on reward = 'dial'"),
        ({"other_reward_models": ["a"], "optimiser": "best-of-n"}, r"others = 'watch': has no effect on best-of-n"),
        ({"other_reward_models": ["a", "b", "a"]}, r"other_reward_models: names 'a'"),
        ({"other_reward_models": ["a"], "reward_model": "a"}, r"other_reward_models: names 'a'"),
        ({"other_reward_models": [5]}, r"other_reward_models.0 = 5: .*quotes"),
        ({"optimiser": "rloo", "samples_per_prompt": 1}, r"samples_per_prompt = 1: .*optimiser = 'rloo'"),
        ({"optimiser": "rloo", "prompts_per_update": 9, "train_questions": 8}, r"prompts_per_update = 9: "),
    ],
)
def test_a_wrong_parameter_is_named_with_its_value_and_what_is_allowed(values, message):
    with pytest.raises(ParameterError, match=message) as caught:
        config.check(PPO, values, where="configs/a.yaml, ppo")
    assert str(caught.value).startswith("configs/a.yaml, ppo: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"normalise_reward": True},
        {"normalise_reward": True, "task": "completeness", "reward": "dial"},
        {"normalise_reward": True, "task": "completeness", "source": "qa-feedback", "evaluator": "rm"},
        {"normalise_reward": False, "source": "qa-feedback", "evaluator": "rm"},
        {"task": "relevance", "reward": "dial", "dial_accuracy": 0.5},
        {"task": "completeness", "reward": "model", "dial_accuracy": 0.5},
        {"other_reward_models": ["a"], "others": "watch"},
        {"other_reward_models": ["a", "b"], "others": "minimum", "optimiser": "best-of-n"},
        {"optimiser": "rloo", "samples_per_prompt": 2},
        {"optimiser": "ppo", "samples_per_prompt": 1},
        {"optimiser": "best-of-n", "prompts_per_update": 9, "train_questions": 8},
    ],
)
def test_what_lies_just_inside_a_bound_is_allowed(values):
    checked = config.check(PPO, values).model_dump()
    assert {name: checked[name] for name in values} == values


def test_every_problem_gets_its_line():
    with pytest.raises(ParameterError) as caught:
        config.check(PPO, {"updates": -1, "clipp": 0.2})
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("steps", [[], [10, 10], [20, 10], [-1, 5]])
def test_checkpoint_steps_must_rise(steps):
    with pytest.raises(ParameterError, match="checkpoint_steps"):
        config.check(RewardModel, {"checkpoint_steps": steps})


GRADED = {"source": "semeval", "task": "preference", "evaluator": "a"}


@pytest.mark.parametrize(
    ("schema", "values", "named"),
    [
        (RewardModel, {"source": "semeval"}, ["task = 'relevance'", "'semeval'", "'preference'"]),
        (RewardModel, {"task": "preference"}, ["task = 'preference'", "'atlas'", "'evouna'"]),
        (PPO, {"source": "evouna", "evaluator": "rm"}, ["task = 'relevance'", "'evouna'"]),
        (RewardModel, {"source": "semeval", "task": "preference", "known_answer": True}, ["known_answer", "'evouna'"]),
        (RewardModel, {"source": "qa-feedback", "official_split": True}, ["official_split", "'semeval'"]),
        (PPO, {"other_evaluators": ["a"]}, ["other_evaluators", "'oracle'", "'completeness', 'preference'"]),
        (PPO, {"source": "qa-feedback", "evaluator": "a", "other_evaluators": ["b"]}, ["other_evaluators", "'relevance'"]),
        (PPO, GRADED | {"other_evaluators": ["b", "a"]}, ["other_evaluators", "'a'"]),
        (config.FeedbackParameters, {"source": "semeval"}, ["source = 'semeval'", "graded"]),
    ],
)
def test_what_a_source_lacks_is_not_asked_of_it(schema, values, named):
    with pytest.raises(ParameterError) as caught:
        config.check(schema, values)
    assert all(word in str(caught.value) for word in named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("values", "data"), [({}, "fixtures/evouna"), ({"data": "mine"}, "mine")])
def test_sources_of_graded_responses_start_from_a_made_up_sample(values, data):
    assert config.check(RewardModel, {"source": "evouna", "task": "preference"} | values).data == data
    assert RewardModel().data == "tasksource/QA-Feedback"


@pytest.mark.parametrize("value", [-0.1, 0.5, 1.0])
def test_label_smoothing_leaves_most_of_the_target_to_the_label(value):
    with pytest.raises(ParameterError, match=f"label_smoothing = {value}: .*0.5"):
        config.check(RewardModel, {"label_smoothing": value})


@given(st.floats())
def test_a_share_lies_between_0_and_1(value):
    try:
        assert config.check(config.FeedbackParameters, {"annotator_noise": value}).annotator_noise == value
    except ParameterError:
        assert not 0 <= value <= 1


def test_as_published_fills_in_the_published_estimators_and_yields_to_explicit_values():
    published = config.check(PPO, {"preset": "as-published"})
    assert published.whitening == "root-of-standard-deviation"
    assert published.whiten_padding
    assert published.log_probabilities == "full-softmax"
    assert published.top_k == 20
    assert published.dropout_in_updates
    assert (published.value_head, published.schedule, published.adam_epsilon) == ("gelu", "step", 1.25e-6)
    assert config.check(PPO, {"preset": "as-published", "top_k": 0}).top_k == 0
    assert config.check(PPO, {}).log_probabilities == "sampling"


def test_notebook_globals_are_checked_without_its_own_names():
    namespace = {"__name__": "__main__", "In": [], "get_ipython": print, "config": config, "updates": 3, "task": "factuality"}
    p = config.check_notebook(PPO, namespace)
    assert (p.updates, p.task) == (3, "factuality")
    with pytest.raises(ParameterError, match="'update' = 3; the nearest existing name is 'updates'"):
        config.check_notebook(PPO, {"update": 3})


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [
        (RewardModel, "checkpoint_steps", "[0, 10]"),
        (PPO, "updates", "many"),
        (PPO, "kl_stop", "ten"),
        (PPO, "decay", "no"),
        (config.Cost, "gpus", "[1, 8]"),
        (PPO, "other_reward_models", "a"),
    ],
)
def test_what_papermill_handed_on_as_text_is_refused_with_the_option_that_does_not(schema, name, value):
    with pytest.raises(ParameterError, match=rf"^parameters: {name} = .*papermill: -y '{name}: ") as caught:
        config.check_notebook(schema, {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arm", "shown"),
    [
        ({"tasks": "relevance"}, "[a, b]"),
        ({"rm_seeds": "1, 2"}, "[0, 10]"),
    ],
)
def test_a_list_is_shown_with_the_kind_of_values_it_takes(arm, shown):
    with pytest.raises(ParameterError, match=r"papermill: -y 'other_reward_models: \[a, b\]'"):
        config.check_notebook(PPO, {"other_reward_models": "mine/model"})
    with pytest.raises(ParameterError, match=rf"arms\.0\.{next(iter(arm))} = .*{re.escape(shown)}"):
        config.check(Study, {"study": "mine", "arms": [{"route": "steps"} | arm]})


def test_a_number_that_papermill_read_as_text_is_refused_with_the_option_that_reads_it():
    with pytest.raises(ParameterError, match=r"learning_rate = '1e-4': .*papermill: -p learning_rate 1e-4 "):
        config.check_notebook(PPO, {"learning_rate": "1e-4"})


OWN, GIVEN, CHECK = 'task = "relevance"', '# Parameters\ntask = "factuality"\nupdates = 3\n', "p = config.check_notebook()"


def test_a_parameter_that_a_notebook_without_its_tag_overwrites_is_refused():
    with pytest.raises(ParameterError, match=r"task = 'factuality': .*'relevance'.*`parameters`"):
        config.check_notebook(PPO, {"In": ["", GIVEN, OWN, CHECK], "task": "relevance", "updates": 3})


@pytest.mark.parametrize(
    "ran", [["", OWN, GIVEN, CHECK], ["", GIVEN, OWN, CHECK], ["", "# Parameters\nkl_stop = float('nan')", CHECK]]
)
def test_parameters_that_took_effect_are_taken(ran):
    assert config.check_notebook(PPO, {"In": ran, "task": "factuality", "updates": 3}).task == "factuality"


def test_seeds_derived_from_the_largest_fit_what_draws():
    most = config.check(PPO, {"seed": 2**32 - 1}).seed
    np.random.RandomState(most)
    assert most * 1_000_003 + 10**9 + 500_009 * 16_384 < 2**63  # torch's, by update and process


def test_parameters_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        config.check(PPO, {}).updates = 5


def write(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("2.5e-3", 2.5e-3), ("3E5", 3e5), ("-1e-2", -1e-2), ("5", 5), (".5", 0.5)]
)
def test_scientific_notation_in_a_config_file_is_a_number(tmp_path, text, value):
    study = load_study(write(tmp_path, f"study: a\nppo: {{learning_rate: {text}}}\narms: [{{route: steps}}]"))
    assert study.ppo["learning_rate"] == value
    assert not isinstance(study.ppo["learning_rate"], str)


def test_a_word_that_looks_like_a_number_stays_a_word(tmp_path):
    study = load_study(write(tmp_path, "study: a\nabout: e5\narms: [{route: steps}]"))
    assert study.about == "e5"


@pytest.mark.parametrize("text", ["no", "on", "010", "1:30", "1_000", "0x10", "2024-01-02", "08", "1.2.3", "="])
def test_what_only_yaml_1_1_takes_for_something_else_stays_text(tmp_path, text):
    study = load_study(write(tmp_path, f"study: a\nabout: {text}\npolicies: {{{text}: {{}}}}\narms: [{{route: steps}}]"))
    assert (study.about, list(study.policies)) == (text, [text])


ARMS = "arms: [{route: steps}]"
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{y}: &{y} [{','.join([f'*{x}'] * 9)}]\n" for x, y in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("study: [", "is not YAML"),
        ("- a\n- b", "must hold a mapping with `study:` and `arms:`"),
        ("", "must hold a mapping"),
        ("# nothing", "must hold a mapping"),
        ("study: a", r"parameter 'arms' is missing"),
        ("study: A b\narms: []", r"study = 'A b': .*pattern"),
        (f"study: {'a' * 300}\n{ARMS}", r"study = 'a{50,100}…: .*100"),
        (f"study: 7\n{ARMS}", r"study = 7: .*quotes"),
        (f"study: true\n{ARMS}", r"study = True: .*quotes"),
        ("study: a\narms: [{route: step}]", r"arms.0.route = 'step': .*'steps'"),
        ("study: a\narms: [{route: steps, tasks: [relevanc]}]", r"arms.0.tasks.0 = 'relevanc'"),
        ("study: a\narms: [{route: steps, name: Two words}]", r"arms.0.name = 'Two words': .*pattern"),
        ("study: a\narms: [{route: steps, seeds: paired}]", r"arms.0.seeds = 'paired': .*'crossed'.*'nested'"),
        ("study: a\narms: [{route: steps, ppo_seed: 1}]", r"'arms.0.ppo_seed' = 1; .*'ppo_seeds'"),
        ("study: a\narms: [{route: steps, others: 9}]", r"arms.0.others = 9: .*integer ≥ 0 ≤ 8"),
        ("study: a\narms: [{route: steps, others: minimum}]", r"arms.0.others = 'minimum': .*integer"),
        ("study: a\narms: [{route: steps, ppo_seeds: [-1]}]", r"arms.0.ppo_seeds.0 = -1: .*integer ≥ 0"),
        (f"study: a\narms: [{{route: steps, rm_seeds: [{2**63}]}}]", r"arms.0.rm_seeds.0 = "),
        ("study: a\narms: [{route: steps, vary: {label_noise: 0.1}}]", r"arms.0.vary.label_noise = 0.1: .*list"),
        ("study: a\narms:", r"arms = None: .*list"),
        ("study: a\narms: {route: dial}", r"arms = \{'route': 'dial'\}: .*list"),
        ("study: a\narms: [dial]", r"arms.0 = 'dial': "),
        ("study: a\narms:\n  -", r"arms.0 = None: "),
        (f"study: a\npolicies: [p]\n{ARMS}", r"policies = \['p'\]: "),
        (f"study: a\npolicies:\n  p:\n{ARMS}", r"policies.p = None: "),
        (f"study: a\npolicies: {{1: {{}}}}\n{ARMS}", r"policies.1 = 1: .*quotes"),
        (f"study: a\nppo: [updates, 3]\n{ARMS}", r"ppo = \['updates', 3\]: "),
        ("study: a\narm: []\narms: []", r"unknown parameter 'arm'.*nearest existing name is 'arms'"),
        ("study: a\ntasks: {relevance: {pp: {}}}\narms: []", r"tasks.relevance.pp"),
        (f"study: a\nppo: {{}}\n{ARMS}\nppo: {{updates: 1}}", r"line 4: 'ppo' is given twice"),
        ("study: a\narms:\n  - {route: steps, ppo: {clip: 0.1, clip: 0.2}}", r"line 3: 'clip' is given twice"),
        (f"study: a\n{ARMS}\n---\nstudy: b", r"line 3: .*document"),
        ("study: a\narms:\n\t- {route: steps}", r"line 3: is not YAML.*spaces"),
        (f"study: a\nabout: x{{y}}: {{z}}\n{ARMS}", r"line 2: is not YAML.*quotes"),
        (f"study: a\nppo: {{clip: a/{{x}}/b}}\n{ARMS}", r"line 2: is not YAML.*quotes"),
        (f"study: a\nabout: !!python/object/apply:os.getcwd []\n{ARMS}", r"line 2: .*python/object"),
        (f"study: a\nabout: b\0c\n{ARMS}", r"line 2: .*UTF-8"),
        (f"study: a\nabout: étude\n{ARMS}".encode("latin-1"), r"line 2: .*UTF-8"),
        (f"study: a\nabout: *b\n{ARMS}", r"line 2: .*alias 'b'"),
        (f"study: a\nppo: &f {{clip: *f}}\n{ARMS}", r"aliases"),
        (f"study: a\nppo: {'[' * 5000}", r"nested"),
        (f"{BOMB}study: a\n{ARMS}", r"aliases"),
        (f"study: a\nextends:\n{ARMS}", r"extends = None: "),
        (f"study: a\nextends: [b.yaml, c.yaml]\n{ARMS}", r"extends = \['b.yaml', 'c.yaml'\]: "),
        ("study: a\nextends: none.yaml", r"extends = 'none.yaml': "),
        ("study: a\nextends: .", r"extends = '.': "),
        ("study: a\nextends: a.yaml", r"extends = 'a.yaml': "),
        ("study: a\nextends: base.yaml\nppo:", r"ppo = None: "),
        ("study: a\nextends: base.yaml\nppo: [updates, 3]", r"ppo = \['updates', 3\]: "),
    ],
)
def test_an_impossible_study_file_is_refused_in_words_that_name_it(tmp_path, text, named):
    (tmp_path / "base.yaml").write_text(f"study: a\nppo: {{updates: 5}}\n{ARMS}")
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError, match=named) as caught:
        load_study(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a b.yaml", "a=b,c.yaml", "quote'.yaml", "réglage #2.yaml", "1e5"])
def test_a_study_is_the_same_whatever_its_file_is_called_and_saved_as(tmp_path, encoding, end, name):
    (tmp_path / name).write_bytes(f"study: a{end}about: étude{end}{ARMS}{end}".encode(encoding))
    assert load_study(tmp_path / name) == config.study.Study(study="a", about="étude", arms=[config.study.Arm(route="steps")])


def test_aliases_and_merges_are_written_out(tmp_path):
    text = "study: a\nppo: &p {updates: 3}\ntasks: {relevance: {ppo: {<<: *p, clip: 0.1}}}\narms: [{route: steps, ppo: *p}]"
    study = load_study(write(tmp_path, text))
    assert study.tasks["relevance"]["ppo"] == {"updates": 3, "clip": 0.1}
    assert study.arms[0].ppo == {"updates": 3}


def test_files_that_extend_each_other_are_refused(tmp_path):
    for name, other in ("ab", "ba"):
        (tmp_path / f"{name}.yaml").write_text(f"study: {name}\nextends: {other}.yaml")
    with pytest.raises(ParameterError, match=r"b\.yaml: extends = 'a\.yaml'"):
        load_study(tmp_path / "a.yaml")


def test_a_missing_study_file_lists_its_neighbours(tmp_path):
    write(tmp_path, "")
    with pytest.raises(ParameterError, match=r"b\.yaml: cannot be read .*configs in that folder: .*a\.yaml"):
        load_study(tmp_path / "b.yaml")


@pytest.mark.parametrize("schema", [config.Supervised, RewardModel, PPO, config.FeedbackParameters])
def test_a_million_of_what_is_held_at_once_is_refused(schema):
    held = {
        "batch_size",
        "micro_batch",
        "prompts_per_update",
        "samples_per_prompt",
        "probe_samples",
        "rm_micro_batch",
        "prompts",
    }
    held |= {"evaluation_batch", "prompt_limit", "response_limit", "max_length", "train_questions", "test_questions"}
    for name in held & schema.model_fields.keys():
        with pytest.raises(ParameterError, match=f"^parameters: {name} = 1000000: "):
            config.check(schema, {name: 10**6})


def test_reward_model_refuses_what_cannot_be():
    with pytest.raises(config.ParameterError, match="micro_batch = 5: must divide batch_size = 32"):
        config.check(config.RewardModel, {"micro_batch": 5})
    with pytest.raises(config.ParameterError, match="corruption_steps = 5: only source = 'atlas'"):
        config.check(config.RewardModel, {"source": "qa-feedback", "corruption_steps": 5})


def test_a_config_that_extends_another_states_only_what_differs(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "study: a\nppo: {updates: 5, kl_coefficient: 0.3}\npolicies: {x: {}}\narms: [{route: steps}]"
    )
    (tmp_path / "more.yaml").write_text("extends: base.yaml\nstudy: b\nppo: {updates: 7}\npolicies: {y: {}}")
    study = load_study(tmp_path / "more.yaml")
    assert (study.study, study.ppo, list(study.policies)) == ("b", {"updates": 7, "kl_coefficient": 0.3}, ["y"])
    assert [arm.route for arm in study.arms] == ["steps"]
