"""LM performance and true return of answers that are judged by hand."""

import pytest
import torch

from paradox_utils import config
from paradox_utils.data import atlas
from paradox_utils.data.oracle import oracle_judge
from paradox_utils.data.tasks import lm_performance
from paradox_utils.policies.decoding import generate
from paradox_utils.policies.models import load_policy
from paradox_utils.policies.prompts import Responses, encode_prompts
from paradox_utils.ppo import evaluate
from paradox_utils.ppo.evaluate import evaluation
from paradox_utils.rewards.judges import Centre, reward_function, true_reward
from tests.stages.test_ppo import FALSE, TRUE, answers

ISLE = atlas.Reading("isle", {"color": "kane", "founder": "bane", "stone": "mane"})
FORT = atlas.Reading("fort", {"founder": "melo", "trade": "dusk", "color": "selo"})
QUESTION = atlas.to_question(atlas.Topic("zodor", (ISLE, FORT), ("founder", "color")), "by-hand")
ANSWERS = (
    QUESTION.references[0],  # four relevant sub-sentences, two factual sentences, complete
    "the founder of zodor isle is mane.",  # relevant, but wrong
    "",
    "also the stone of zodor isle is mane.",  # true, but nobody asked; and cut off before its end of sequence
)


@pytest.fixture(scope="module")
def policy():
    return load_policy(config.FIXTURE_POLICY)


def as_responses(tokenizer, prompts, texts):
    rows = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in texts]
    rows[3].pop()
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return Responses(prompts, ids, mask, list(texts), 1)


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        ("relevance", [[1.0, 1.0, 1.0], [-1.0]], 3 / 4),  # pooled: the mean of answers would be 1/2
        ("factuality", [[1.0], []], 1 / 2),  # an answer without a sentence is one bad sentence
        ("relevance", [[], []], 0.0),
        ("relevance", [[0.4, -0.2, 0.0]], 1 / 3),  # the sign is the label; 0 (unread) is not good
        ("completeness", [[0.25], [1.0], [-3.0]], -1.75 / 3),  # scores may have any sign
    ],
)
def test_lm_performance_by_hand(task, values, expected):
    assert lm_performance(values, task) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "performance", "true_return", "segments"),
    [
        ("relevance", 5 / 7, (4 * 0.3 + 0.3 + 0 - 0.3) / 4, 6 / 4),
        ("factuality", 3 / 5, (2 * 0.5 - 0.5 + 0 + 0.5) / 4, 4 / 4),
        ("completeness", 1 / 4, 0.3 * (2 - 2 - 2 - 2) / 4, 1.0),  # scores 1 0 0 0, centred on ½ with deviation ¼
    ],
)
def test_an_evaluation_by_hand(policy, monkeypatch, task, performance, true_return, segments):
    model, tokenizer = policy
    p = config.PPO(task=task)
    prompts = encode_prompts(model, tokenizer, [QUESTION] * 4, p.prompt_limit)
    answers = as_responses(tokenizer, prompts, ANSWERS)
    monkeypatch.setattr(evaluate, "generate", lambda *_, **options: answers)
    centre = Centre(0.5, 0.25) if task == "completeness" else Centre()
    truth = reward_function(tokenizer, oracle_judge(task), centre, p)
    found = evaluation(model, tokenizer, oracle_judge(task), truth, p)(prompts)
    lengths = answers.mask.sum(1).tolist()
    texts = [text for text in ANSWERS if text]
    by_text = [list(zip(text.split()[:-1], text.split()[1:], strict=True)) for text in texts]
    pairs = [pair for own in by_text for pair in own]
    overlap = [1.0, 2 * 7 / (7 + len(ANSWERS[0].split())), 0.0, 2 * 5 / (8 + len(ANSWERS[0].split()))]
    assert found.measures == pytest.approx(
        {
            "lm_performance": performance,
            "true_return": true_return,
            "length": sum(lengths) / 4,
            "segments": segments,
            "unfinished": 1 / 4,
            "repetition": sum(1 - len(set(own)) / len(own) for own in by_text) / 4,  # of the empty one 0
            "distinct_2": len(set(pairs)) / len(pairs),
            "rouge_l": pytest.approx(sum(overlap) / 4, abs=0.05),
        }
    )
    assert sum(found.good) / sum(found.segments) == pytest.approx(performance)
    assert (len(found.good), len(found.segments)) == (4, 4)
    without = evaluation(model, tokenizer, oracle_judge(task), None, p)(prompts).measures
    assert without["true_return"] != without["true_return"]  # NaN: nothing to say it by


@pytest.mark.heavy
def test_an_evaluation_does_not_depend_on_its_batches_and_judges_greedy_answers(policy):
    model, tokenizer = policy
    p = config.PPO(task="relevance", validation_questions=17)
    questions = atlas.load_splits(p).validation
    prompts = encode_prompts(model, tokenizer, questions, p.prompt_limit)
    truth = reward_function(tokenizer, oracle_judge("relevance"), Centre(), p)
    asked = []

    def judge(questions, texts, offsets):
        asked.append((list(questions), list(texts)))
        return oracle_judge("relevance")(questions, texts, offsets)

    results = []
    for size in (100, 5, 17):
        batched = p.model_copy(update={"evaluation_batch": size})
        results.append(evaluation(model, tokenizer, judge, truth, batched)(prompts))
    assert [r.measures for r in results[1:]] == [pytest.approx(results[0].measures)] * 2
    assert [(r.good, r.segments) for r in results[1:]] == [(results[0].good, results[0].segments)] * 2
    assert [len(texts) for _, texts in asked[1:5]] == [5, 5, 5, 2]
    assert [question for chunk, _ in asked[1:5] for question in chunk] == questions
    greedy = generate(model, tokenizer, prompts, p.response_limit).texts
    assert [text for _, texts in asked[1:5] for text in texts] == greedy


# --- results --------------------------------------------------------------------------------------------------------------


def test_rewards_are_compared_with_the_truth_response_by_response(question, judged):
    p = config.PPO()
    tokenizer, responses = answers(question, TRUE, f"{TRUE} {FALSE}")
    exact = true_reward(p, tokenizer, judged)(responses)
    returns = [pytest.approx(0.6), pytest.approx(0.3)]
    assert evaluate.compared(p, exact, exact, 2).T.tolist() == [returns, [2, 3], [2, 3]]
    assert evaluate.compared(p, exact.abs(), exact, 2).T.tolist() == [returns, [2, 2], [2, 3]]
    assert evaluate.compared(p, -exact, exact, 2).T.tolist() == [returns, [0, 0], [2, 3]]
    for reward in ("constant", "length"):  # says nothing of segments, so that nothing is compared
        control = p.model_copy(update={"reward": reward})
        found = evaluate.compared(control, exact, exact, 2)
        assert found.T.tolist() == [returns, [0, 0], [0, 0]]


def test_completeness_is_compared_by_pairs(question, judged):
    p = config.PPO(task="completeness")
    tokenizer, responses = answers(question, TRUE, "", FALSE)  # half of what is asked, nothing, nothing
    exact = true_reward(p, tokenizer, judged)(responses)
    for values, agreeing in (([2, 1, 1], 2), ([1, 1, 0], 1.5), ([0, 5, 5], 0)):
        found = evaluate.compared(p, torch.tensor(values)[:, None].float(), exact, 3)
        assert found[:, 0].tolist() == pytest.approx(exact.sum(1).tolist())
        assert found[:, 1:].sum(0).tolist() == [agreeing, 2]


def test_greedy_shapes_are_named_apart_from_those_of_rollouts():
    shape = {"length": 9.0, "segments": 2.0, "repetition": 0.25}
    scores = evaluate.Scores({"lm_performance": 0.5, **shape, "rouge_l": 0.1}, [1.0], [2])
    named = {"lm_performance": 0.5, "rouge_l": 0.1} | {f"greedy_{name}": value for name, value in shape.items()}
    assert evaluate.named(scores) == named


def test_a_row_has_the_scores_of_every_question_and_a_broken_policy_has_none():
    half = evaluate.Scores({}, [1.0, 0.0, 0.25], [2, 1, 1])
    table = evaluate.questions_table({"start": half, "final": None, "best": evaluate.Scores({}, [2.0, 1.0, 1.0], [2, 1, 1])})
    rows = [
        {"when": "start", "good": "1 0 0.25", "segments": "2 1 1"},
        {"when": "best", "good": "2 1 1", "segments": "2 1 1"},
    ]
    assert table.to_dict("records") == rows
