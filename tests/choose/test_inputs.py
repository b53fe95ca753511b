"""Prompts, responses and judgements in the forms people have them, and what is refused."""

import json
import re

import numpy as np
import pytest

from paradox_utils import config, files
from paradox_utils.choose import inputs
from paradox_utils.config import ParameterError
from paradox_utils.data.records import DataError

USER, BLUE, GREEN = (
    {"role": role, "content": text} for role, text in [("user", "Sky?"), ("assistant", "Blue."), ("assistant", "Green.")]
)


@pytest.fixture
def written(tmp_path):
    """A function that leaves rows in a JSONL file and names it."""

    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


FORMS = {
    "a response a row": [
        {"prompt": "Sky?", "response": "Blue.", "score": 1},
        {"prompt": "Sky?", "response": "Green.", "label": 0},
    ],
    "TRL, unpaired": [
        {"prompt": "Sky?", "completion": "Blue.", "label": True},
        {"prompt": "Sky?", "completion": "Green.", "label": False},
    ],
    "all in a row": [{"question": "Sky?", "responses": ["Blue.", "Green."], "score": [1, 0]}],
    "TRL, standard, explicit": [{"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}],
    "TRL, standard, implicit": [{"chosen": "Sky? Blue.", "rejected": "Sky? Green."}],
    "TRL, conversational, explicit": [{"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]}],
    "TRL, conversational, implicit": [{"chosen": [USER, BLUE], "rejected": [USER, GREEN]}],
    "question": [{"question": "Sky?", "chosen": "Blue.", "rejected": "Green."}],
    "input": [{"input": "Sky?", "chosen": "Blue.", "rejected": "Green."}],
    "lists": [{"prompt": "Sky?", "chosen": ["Blue."], "rejected": ["Green."]}],
    "winner": [{"prompt": "Sky?", "response_1": "Green.", "response_2": "Blue.", "winner": 2}],
    "winner by name": [{"prompt": "Sky?", "response_1": "Blue.", "response_2": "Green.", "winner": "response_1"}],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(form, written):
    (asked,) = inputs.read_responses(written(*FORMS[form]))
    assert asked.question.prompt.strip() == "Sky?"
    judged = {asked.responses[name].strip(): good for name, (good, _) in asked.judged.items()}
    assert judged == {"Blue.": 1.0, "Green.": 0.0}


def test_messages_stay_messages(written):
    (asked,) = inputs.read_responses(written(*FORMS["TRL, conversational, implicit"]))
    assert asked.prompt == [USER]


def test_comparisons_of_several_responses_become_shares_of_wins(written):
    """a beats b and c, b beats c, b and c also tie once: 1, 1.5 of 3, 0.5 of 3."""
    rows = [
        {"prompt": "x", "chosen": ["a"], "rejected": ["b", "c"]},
        {"prompt": "x", "chosen": "b ", "rejected": "c"} | {"chosen": ["b"], "rejected": ["c"]},
        {"prompt": "x", "response_1": "b", "response_2": "c", "winner": "tie"},
    ]
    (asked,) = inputs.read_responses(written(*rows))
    assert {asked.responses[name]: good for name, (good, _) in asked.judged.items()} == {
        "a": 1.0,
        "b": 0.5,
        "c": pytest.approx(0.5 / 3),
    }


def test_prompts_are_told_apart_by_id_or_by_text(written):
    rows = [{"prompt_id": i, "prompt": "x", "response_id": f"r{i}", "response": "a"} for i in range(2)]
    assert [(one.id, list(one.responses)) for one in inputs.read_responses(written(*rows))] == [("0", ["r0"]), ("1", ["r1"])]
    rows = [{"prompt": text, "response": "a"} for text in "xyx"]
    assert [one.prompt for one in inputs.read_responses(written(*rows))] == ["x", "y"]


def test_what_is_left_for_others_to_score_is_read_again(written, tmp_path):
    asked = inputs.read_responses(written(*FORMS["all in a row"]))
    inputs.write_responses(tmp_path / "responses.jsonl", asked)
    (again,) = inputs.read_responses(str(tmp_path / "responses.jsonl"))
    assert (again.id, again.prompt, again.responses) == (asked[0].id, asked[0].prompt, asked[0].responses)


def test_a_response_that_is_said_twice_counts_twice(written):
    """How often a policy says something is part of it, and two judgements of one text both count; compared, it is one."""
    rows = [{"prompt": "x", "responses": ["a", "a"], "score": [1, 0]}, {"prompt": "x", "response": "a", "score": 1}]
    (asked,) = inputs.read_responses(written(*rows))
    assert asked.responses == {"0": "a", "1": "a", "2": "a"}
    assert [good for good, _ in asked.judged.values()] == [1.0, 0.0, 1.0]
    (asked,) = inputs.read_responses(written(*({"prompt": "x", "chosen": "a", "rejected": other} for other in "bc")))
    assert asked.responses == {"0": "a", "1": "b", "2": "c"}


def test_an_id_that_is_made_is_free(written):
    rows = [{"prompt": "x", "response": text} for text in "abc"]
    rows[0]["response_id"] = "1"
    (asked,) = inputs.read_responses(written(*rows))
    assert list(asked.responses.values()) == ["a", "b", "c"]


def test_an_empty_cell_is_not_judged(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response,score,label\nx,a,,1\nx,,0,\nx,c,,\n")
    (asked,) = inputs.read_responses(str(path))
    assert asked.responses == {"0": "a", "1": "", "2": "c"}
    assert asked.judged == {"0": (1.0, 1.0), "1": (0.0, 1.0)}
    path.write_text("prompt_id,response_id,score\np,a,1\np,b,\n")
    assert inputs.read_scores(str(path)) == {("p", "a"): 1.0}


BAD_ROWS = {
    "not JSON": (["{\n"], ["line 1"]),
    "no object": (["[1]\n"], ["line 1", "list"]),
    "a name twice": (['{"prompt": "x", "prompt": "y", "response": "a"}\n'], ["line 1", "prompt"]),
    "no prompt": ([{"response": "a"}], ["line 1", "prompt", "None"]),
    "prompt in neither form": ([{"prompt": 3, "response": "a"}], ["line 1", "prompt = 3", "messages"]),
    "messages without roles": ([{"prompt": [{"content": "x"}], "response": "a"}], ["line 1", "prompt", "role"]),
    "empty prompt": ([{"prompt": " ", "response": "a"}], ["line 1", "prompt"]),
    "a number as response": ([{"prompt": "x", "response": 3}], ["line 1", "response = 3"]),
    "no response": ([{"prompt": "x"}], ["'0'", "no response"]),
    "no list": ([{"prompt": "x", "responses": "ab"}], ["line 1", "responses", "list"]),
    "equal response ids": (
        [{"prompt_id": "p", "prompt": "x", "response_id": "r", "response": t} for t in "ab"],
        ["line 2", "'r'", "'p'"],
    ),
    "one id, two prompts": ([{"prompt_id": "p", "prompt": t, "response": "a"} for t in "xy"], ["line 2", "prompt_id = 'p'"]),
    "an id that another has": (
        [{"prompt": "x", "response": "a"}, {"prompt_id": "0", "prompt": "y", "response": "a"}],
        ["line 2", "prompt_id = '0'", "another prompt"],
    ),
    "an id that another got": (
        [{"prompt_id": "1", "prompt": "x", "response": "a"}, {"prompt": "y", "response": "a"}],
        ["line 2", "prompt_id = '1'", "another prompt"],
    ),
    "a word as label": ([{"prompt": "x", "response": "a", "label": "good"}], ["line 1", "label = 'good'"]),
    "too few scores": ([{"prompt": "x", "responses": ["a", "b"], "score": [1]}], ["line 1", "1 scores for 2"]),
    "NaN": (['{"prompt": "x", "response": "a", "score": NaN}\n'], ["line 1", "score = nan"]),
    "a word as score": ([{"prompt": "x", "response": "a", "score": "good"}], ["line 1", "score = 'good'"]),
    "a winner counted from zero": ([{"prompt": "x", "response_1": "a", "response_2": "b", "winner": 0}], ["winner = 0", "tie"]),
    "an LFS pointer": (["version https://git-lfs.github.com/spec/v1\n"], ["rows.jsonl", "git lfs pull"]),
    "no winner": ([{"prompt": "x", "response_1": "a", "response_2": "b", "winner": "c"}], ["line 1", "winner = 'c'"]),
    "chosen in another form than rejected": (
        [{"prompt": "x", "chosen": "a", "rejected": 3}],
        ["line 1", "rejected = 3"],
    ),
    "empty": (["\n"], ["no prompt"]),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named(case, written):
    rows, named = BAD_ROWS[case]
    with pytest.raises(DataError) as caught:
        inputs.read_responses(written(*rows))
    assert all(word in str(caught.value) for word in named), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere.jsonl", "no such file", "org/never-there"])
def test_a_file_that_is_not_here_and_a_hub_that_cannot_be_reached(source):
    with pytest.raises(DataError, match=re.escape(source)):
        inputs.read_responses(source)


@pytest.fixture
def asked(written):
    return inputs.read_responses(
        written({"prompt_id": "p", "prompt": "x", "response_ids": ["a", "b"], "responses": ["1", "2"]})
    )


def scores(*rows):
    return [dict(zip(("prompt_id", "response_id", "score"), row, strict=True)) for row in rows]


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.csv"])
def test_scores_of_either_kind_of_file(name, written, tmp_path):
    path = written(*scores(("p", "a", 1.5), ("p", "b", -2)), name=name)
    if name.endswith("csv"):
        (tmp_path / name).write_text("prompt_id,response_id,score\np,a,1.5\np,b,-2\n")
    assert inputs.read_scores(path, {("p", "a"), ("p", "b")}) == {("p", "a"): 1.5, ("p", "b"): -2.0}


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (scores(("p", "c", 1)), ["'p'", "'c'", "no such response"]),
        (scores(("p", "a", 1), ("p", "a", 1)), ["line 2", "'a'", "twice"]),
        (scores(("p", "a", "high")), ["line 1", "'high'"]),
        (scores(("p", "a", None)), ["line 1", "score"]),
    ],
)
def test_bad_scores_are_named(rows, named, written):
    with pytest.raises(DataError) as caught:
        inputs.read_scores(written(*rows), {("p", "a"), ("p", "b")})
    assert all(word in str(caught.value) for word in named), str(caught.value)


def p(**values):
    candidates = {"a": "x.jsonl", "b": "y.jsonl"}
    return config.check(config.Choose, {"candidates": candidates} | values)


def test_a_column_may_be_named(written):
    path = written({"prompt": "x", "responses": ["a", "b"], "human": [2, 5], "score": [9, 9]})
    (one,) = inputs.read_responses(path, "human")
    assert list(one.judged.values()) == [(2.0, 1.0), (5.0, 1.0)]
    with pytest.raises(DataError, match="judgement = 'people'"):
        inputs.read_responses(path, "people")


@pytest.mark.parametrize("rows", [(), (("p", "a", 1.0),), (("p", "a", 1.0), ("p", "b", 2.0))])
def test_a_judgement_of_none_or_one_of_a_prompts_responses_or_of_one_prompt_compares_nothing(rows, asked, written):
    path = written(*scores(*rows), name="judged.jsonl")
    with pytest.raises(ParameterError, match=r"judgement = .*judged.jsonl.*prompt has two judged"):
        inputs.judge(p(responses="r.jsonl", judgement=path), asked, inputs.read_scores(path))


@pytest.mark.parametrize("values", [{"responses": "r.jsonl"}, {"task": "preference"}, {"judgement": "none"}])
def test_without_a_judgement_nothing_is_judged(values, asked):
    inputs.judge(p(**values), asked, None)
    assert not any(one.judged for one in asked)


def test_the_oracle_counts_good_segments(question):
    both = [inputs.Asked(name, question.prompt, question, {"0": question.references[0], "1": ""}) for name in "qr"]
    inputs.judge(p(source="atlas"), both, None)
    assert both[0].judged == both[1].judged == {"0": (4.0, 4.0), "1": (0.0, 1.0)}


def test_grids_have_nothing_where_there_is_no_response(asked):
    more = inputs.Asked("q", "y", asked[0].question, {"0": "only"})
    table = inputs.grid([*asked, more], {("p", "a"): 1.0, ("q", "0"): 2.0})
    assert table == pytest.approx(np.array([[1.0, np.nan], [2.0, np.nan]]), nan_ok=True)


BAD_PARAMETERS = {
    "one candidate only": ({"candidates": {"a": "x"}}, ["candidates", "'a'"]),
    "a candidate of nothing": ({"candidates": {"a": {}, "b": "x"}}, ["candidates.a", "neither"]),
    "a candidate of two things": ({"candidates": {"a": {"model": "x", "scores": "y"}, "b": "x"}}, ["candidates.a", "both"]),
    "an output of scores": ({"candidates": {"a": {"scores": "y", "output": "z"}, "b": "x"}}, ["candidates.a", "output"]),
    "a misspelt field": ({"candidates": {"a": {"modle": "x"}, "b": "x"}}, ["candidates.a.modle", "'model'"]),
    "prompts beside responses": ({"prompts": "x", "responses": "y"}, ["prompts", "responses"]),
    "a judge beside a judgement": ({"judge": "x", "judgement": "oracle"}, ["judgement", "judge"]),
    "a candidate that judges": ({"candidates": {"a": "x", "b": "y"}, "judge": {"model": "y"}}, ["'b'", "judge"]),
    "scores that judge": ({"candidates": {"a": "x", "b": "y.csv"}, "judgement": "y.csv"}, ["'b'", "judge"]),
    "an oracle of one's own responses": ({"responses": "x", "judgement": "oracle"}, ["judgement", "oracle"]),
    "an oracle of what people grade": ({"task": "preference", "judgement": "oracle"}, ["judgement", "preference"]),
    "no penalty and no budget": ({"kl_coefficient": 0.0}, ["kl_coefficient", "kl_budget"]),
    "more than there are": ({"algorithm": "best-of-n", "n": 64}, ["n = 64", "samples = 32"]),
    "a column of nothing": ({"judgement": "human"}, ["judgement = 'human'", "responses"]),
    "a budget of a choice": ({"algorithm": "best-of-n", "kl_budget": 1.0}, ["kl_budget", "best-of-n"]),
    "an order scaled": ({"algorithm": "best-of-n", "reward_scaling": "standardise"}, ["reward_scaling", "best-of-n"]),
    "scaled twice": ({"algorithm": "grpo", "reward_scaling": "standardise"}, ["reward_scaling", "grpo"]),
    "one sample": ({"samples": 1}, ["samples = 1"]),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_impossible_parameters_are_named(case):
    values, named = BAD_PARAMETERS[case]
    with pytest.raises(ParameterError) as caught:
        config.check(config.Choose, values)
    assert all(word in str(caught.value) for word in named), str(caught.value)


def test_plain_text_is_a_model_or_scores():
    candidates = p(candidates={"a": "org/model", "b": "b.jsonl", "c": "c.csv.gz"}).candidates
    assert [(one.model, one.scores) for one in candidates.values()] == [("org/model", ""), ("", "b.jsonl"), ("", "c.csv.gz")]


def test_lines_are_written_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    inputs.write_lines(path, [{"a": "é"}])
    monkeypatch.setattr(files, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011
        inputs.write_lines(path, [{"a": 2}])
    assert path.read_text() == '{"a": "é"}\n'
