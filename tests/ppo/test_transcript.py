"""Greedy answers to a few questions, each segment with what it is paid and what the evaluator says of it."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from paradox_utils import config, data
from paradox_utils.data.oracle import oracle_judge
from paradox_utils.data.tasks import MARKED, TASKS
from paradox_utils.files import resolve
from paradox_utils.policies.models import load_policy
from paradox_utils.policies.prompts import encode_prompts
from paradox_utils.ppo import loop, transcript
from paradox_utils.rewards import judges


@functools.cache
def start():
    p = config.PPO(device="cpu", test_questions=20)
    model, tokenizer = load_policy(p.policy)
    prompts = encode_prompts(model, tokenizer, data.load_splits(p).test, p.prompt_limit)
    return loop.Actors(model, None, None, tokenizer), prompts, data.load_feedback(p, resolve(p.feedback))


def written(task, reward, function=None, **changes):
    p = config.PPO(task=task, reward=reward, device="cpu", test_questions=20, **changes)
    actors, prompts, judged = start()
    given = function or judges.reward_of(p, actors.tokenizer, judged).function
    return transcript.transcript(p, actors, prompts, loop.Rewards(given, None, None, oracle_judge(task)))


def numbers(column):
    return [np.array(value.split(), dtype=float) for value in column]


@pytest.mark.heavy
@pytest.mark.parametrize("task", MARKED)
def test_an_exact_reward_pays_what_the_evaluator_says(task):
    table = written(task, "dial", dial_accuracy=1.0)
    _, prompts, judged = start()
    assert table["question"].tolist() == [question.text for question in prompts.questions[:12]]
    ends = numbers(table["ends"])
    assert all(np.all(np.diff(own) > 0) and own[-1] <= len(text) for own, text in zip(ends, table["text"], strict=True))
    paid, said = np.concatenate(numbers(table["paid"])), np.concatenate(numbers(table["judged"]))
    if task == "completeness":
        scores = np.array([record.clean_scores for record in judged["train"]])
        assert paid == pytest.approx(TASKS[task].reward_size * (said - scores.mean()) / scores.std(), abs=2e-3)
    else:
        assert len(paid) == sum(map(len, ends)) > 12
        assert paid == pytest.approx(TASKS[task].reward_size * said, abs=1e-3)


@pytest.mark.heavy
@pytest.mark.parametrize("reward", ["model", "length"])
def test_segments_are_paid_the_whole_reward_of_their_response(reward):
    p = config.PPO(device="cpu")
    actors, _, judged = start()
    given, sums = judges.reward_of(p.model_copy(update={"reward": reward}), actors.tokenizer, judged).function, []

    def seen(responses):
        sums.extend(given(responses).sum(1).tolist())
        return given(responses)

    paid = numbers(written("relevance", reward, seen)["paid"])
    assert [own.sum() for own in paid] == pytest.approx(sums, abs=0.02)
    assert len({len(own) for own in paid}) > 1
    if reward == "length":  # it lies on the last token
        assert all(np.all(own[:-1] == 0) for own in paid)


def test_of_two_segments_that_end_on_one_token_the_later_is_paid(monkeypatch):
    monkeypatch.setattr(transcript, "last_tokens", lambda *_: [1, 1, 3])
    monkeypatch.setattr(transcript, "segments_of", lambda p, texts, task: [[(0, 1), (1, 2), (2, 3)] for _ in texts])

    def rewards(responses):
        paid = torch.zeros(responses.ids.shape)
        paid[:, 1], paid[:, 3], paid[:, 4] = 0.5, -1.0, 0.25
        return paid

    table = written("relevance", "dial", rewards)
    assert set(table["paid"]) == {"0 0.5 -0.75"}
    assert set(table["ends"]) == {"1 2 3"}


def test_a_response_without_a_segment_is_paid_all_the_same(monkeypatch):
    actors, prompts, _ = start()
    monkeypatch.setattr(transcript, "segments_of", lambda p, texts, task: [[] for _ in texts])
    p = config.PPO(device="cpu", test_questions=20)
    rewards = loop.Rewards(lambda responses: torch.ones(responses.ids.shape), None, None, lambda q, t, o: [[] for _ in t])
    few = dataclasses.replace(prompts, questions=prompts.questions[:3], ids=prompts.ids[:3], mask=prompts.mask[:3])
    table = transcript.transcript(p, actors, few, rewards)
    assert len(table) == 3
    assert table[["ends", "judged"]].eq("").all(axis=None)
    assert all(float(value) >= 1 for value in table["paid"])
