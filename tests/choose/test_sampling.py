"""Responses are the policy's own: as many as asked for, the same every time, to prompts in the form that the policy reads."""

from types import SimpleNamespace

import pytest

from paradox_utils.choose import sampling
from paradox_utils.choose.inputs import Asked, _question
from paradox_utils.policies.models import ModelError, atlas_policy_tokenizer
from tests.choose.conftest import TEMPLATE, parameters

SAID = [{"role": "user", "content": "what is zodor?"}]


def reader(**kind):
    """As much of a policy as says how it reads."""
    return SimpleNamespace(config=SimpleNamespace(**kind), device="cpu")


def sampled(asked, **values):
    return sampling.sample(parameters(samples=3, response_limit=8, **values), asked)


def test_so_many_responses_to_each_prompt_and_the_same_ones_however_many_prompts_are_together(asked, monkeypatch):
    texts, cut = sampled(asked)
    assert [len(own) for own in texts] == [3] * len(asked)
    assert cut == 0
    assert len({text for own in texts for text in own}) > len(asked)
    monkeypatch.setattr(sampling, "TOGETHER", 6)  # two prompts
    assert sampled(asked) == (texts, 0)
    assert sampled(asked, seed=1)[0] != texts


def test_prompts_that_are_cut_are_counted(asked):
    assert sampled(asked, prompt_limit=4)[1] == len(asked)


def test_own_prompts_are_answered(asked):
    own = [Asked("a", "what is zodor?", _question("a", "what is zodor?"))]
    texts, cut = sampled(own, prompts="prompts.jsonl")
    assert [len(texts), len(texts[0]), cut] == [1, 3, 0]


@pytest.mark.parametrize("causal", [True, False])
def test_own_prompts_are_padded_where_no_response_follows_and_cut_from_their_beginning(causal):
    """A decoder writes on from a prompt's last token, so its padding is on the left."""
    tokenizer, policy = atlas_policy_tokenizer(), reader(is_encoder_decoder=not causal)
    rows = [Asked(text, text, _question(text, text)) for text in ("what is zodor?", "what?")]
    long, short = (tokenizer(one.prompt).input_ids for one in rows)
    pads = [tokenizer.pad_token_id] * (3 - len(short))
    assert len(long) > 3 > len(short)
    made = sampling._own(policy, tokenizer, rows, 3)
    assert made.ids.tolist() == [long[-3:], pads + short if causal else short + pads]
    assert made.mask.tolist() == [[1, 1, 1], [int(token != tokenizer.pad_token_id) for token in made.ids[1]]]
    assert made.truncated == 1


def test_messages_are_read_by_the_policys_template_and_need_one():
    tokenizer, policy = atlas_policy_tokenizer(), reader(is_encoder_decoder=True)
    rows = [Asked("a", SAID, _question("a", SAID))]
    with pytest.raises(ModelError, match="no chat template"):
        sampling._own(policy, tokenizer, rows, 20)
    tokenizer.chat_template = TEMPLATE
    made = sampling._own(policy, tokenizer, rows, 20)
    assert made.ids.tolist() == [tokenizer("what is zodor? ", add_special_tokens=False).input_ids]
