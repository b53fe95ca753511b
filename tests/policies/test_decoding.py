"""Our decode loop against transformers' own, the distribution it should draw from, and itself in other batches."""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from paradox_utils.policies import decoding, t5
from paradox_utils.policies.decoding import NonFiniteLogitsError, generate
from tests.policies.test_passes import FAMILIES, OURS, cross_keys, family, rows_seen
from tests.policies.test_prompts import EOS, PAD, TEXTS, ask, plain_logits, tiny_model, tiny_tokenizer, unpadded

NAMES = [name for name in FAMILIES if name != "umt5"]  # see test_forward.py


@pytest.fixture(params=NAMES)
def policy(request):
    return family(request.param), tiny_tokenizer()


@pytest.fixture(params=["t5", "bart", "llama"])
def one_of_each(request):
    return family(request.param), tiny_tokenizer()


def sampled(policy, texts=TEXTS, limit=10, samples=3, temperature=0.7, **how):
    return generate(*policy, ask(policy, texts), limit, samples, temperature, **how)


def by_prompt(responses):
    rows, k = responses.tokens(), responses.samples
    return {question.prompt: rows[i * k : i * k + k] for i, question in enumerate(responses.prompts.questions)}


def test_greedy_decoding_is_that_of_transformers(policy):
    model, _ = policy
    prompts = ask(policy)
    ours = generate(*policy, prompts, 10).tokens()
    ends = {"pad_token_id": PAD, "eos_token_id": EOS, "num_beams": 1, "do_sample": False, "max_new_tokens": 10}
    for row, prompt in enumerate(unpadded(prompts)):
        (whole,) = model.generate(input_ids=torch.tensor([prompt]), **ends).tolist()
        expected = whole[1:] if model.config.is_encoder_decoder else whole[len(prompt) :]
        assert ours[row] == expected
    assert all(ours)


@pytest.mark.parametrize("top_k", [0, 4])
def test_tokens_are_drawn_from_the_tempered_softmax_and_from_nothing_else(one_of_each, top_k):
    """Frequencies of first tokens, and of second ones after the likeliest first, against softmax(logits / 0.7)."""
    responses = sampled(one_of_each, texts=["a b c"], limit=2, samples=6000, top_k=top_k)
    prompt = unpadded(responses.prompts)[0]
    firsts = responses.ids[:, 0]
    start = torch.bincount(firsts[firsts != EOS]).argmax().item()
    for place, chosen, before in ((0, slice(None), []), (1, firsts == start, [start])):
        logits = plain_logits_of(one_of_each[0], prompt, [*before, 3])[-1].double()
        if top_k:
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
        drawn = responses.ids[chosen, place]
        counts = torch.bincount(drawn, minlength=13)
        assert counts[logits.isinf()].sum() == 0
        assert p_value(counts, logits, 0.7) > 0.001
        if place == 0:
            assert p_value(counts, logits, 1.0) < 1e-3  # the test can tell the temperatures apart


def plain_logits_of(model, prompt, response):
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *response[:-1]]])}
        return model(**inputs).logits[0].detach()
    return plain_logits(model, prompt, response).detach()


def p_value(counts, logits, temperature):
    expected, order = ((logits / temperature).softmax(-1) * counts.sum()).sort(descending=True)
    bins = int((expected > 5).sum())  # the rarest tokens are counted with the last of these
    assert bins >= 2
    pooled = [torch.cat([x[: bins - 1], x[bins - 1 :].sum(0, keepdim=True)]).double() for x in (counts[order], expected)]
    pooled[1] *= pooled[0].sum() / pooled[1].sum()
    return chisquare(*(x.tolist() for x in pooled)).pvalue


def test_a_response_does_not_depend_on_what_it_is_batched_with_nor_on_the_order(policy):
    together = by_prompt(sampled(policy, seed=5))
    assert by_prompt(sampled(policy, texts=TEXTS[::-1], seed=5)) == together
    for text in TEXTS:
        assert by_prompt(sampled(policy, texts=[text], seed=5)) == {text: together[text]}
    fewer = by_prompt(sampled(policy, samples=2, seed=5))
    assert fewer == {text: rows[:2] for text, rows in together.items()}  # the number of the sample is its key
    assert by_prompt(sampled(policy, seed=6)) != together
    torch.manual_seed(99)  # no other source of random numbers takes part
    assert by_prompt(sampled(policy, seed=5)) == together


def test_dropping_finished_prompts_changes_nothing(policy, monkeypatch):
    kind = decoding._T5State if t5.speaks(policy[0]) else decoding._State
    drops, keep = [], kind.keep
    monkeypatch.setattr(kind, "keep", lambda *given: drops.append(len(given[1])) or keep(*given))
    lengths = torch.tensor([1, 1, 2, 3, 10, 9, 5, 4])
    dropped = sampled(policy, samples=2, lengths=lengths)
    assert drops == [3, 2, 1]  # after 1, 3 and 5 tokens
    monkeypatch.setattr(kind, "keep", lambda *_: None)
    for text, pair in zip(TEXTS, lengths.view(-1, 2), strict=True):
        alone = sampled(policy, texts=[text], samples=2, lengths=pair)
        assert by_prompt(alone)[text] == by_prompt(dropped)[text]


def test_imposed_lengths_are_kept_end_of_sequence_included(one_of_each):
    lengths = torch.tensor([1, 10, 3, 2])
    for temperature in (None, 0.7):
        responses = sampled(one_of_each, samples=1, temperature=temperature, lengths=lengths)
        assert responses.mask.sum(1).tolist() == [1, 10, 3, 2]
        assert all(tokens[-1] == EOS and EOS not in tokens[:-1] for tokens in responses.tokens())


def test_the_mask_ends_with_the_end_of_sequence_and_padding_follows(one_of_each):
    responses = sampled(one_of_each, samples=16, temperature=1.5)
    width = responses.ids.shape[1]
    for ids, mask, tokens, text in zip(responses.ids, responses.mask, responses.tokens(), responses.texts, strict=True):
        length = int(mask.sum())
        assert mask.tolist() == [1] * length + [0] * (width - length)
        assert ids[length:].eq(PAD).all()
        assert EOS not in ids[: length - 1]
        assert ids[length - 1] == EOS or length == 10
        assert text == one_of_each[1].decode([t for t in tokens if t > 2])  # without special tokens
    assert len(set(responses.mask.sum(1).tolist())) > 3


def test_the_samples_of_one_prompt_lie_side_by_side():
    policy = tiny_model("encoder-decoder").eval(), tiny_tokenizer()
    greedy = generate(*policy, ask(policy), 10).tokens()
    assert all(one != following for one, following in itertools.pairwise(greedy))  # else the order could not be seen
    cold = sampled(policy, temperature=1e-4)  # as good as greedy
    assert cold.tokens() == [tokens for tokens in greedy for _ in range(3)]
    assert [question.id for question in cold.questions] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3 + ["3"] * 3


def test_never_a_token_of_probability_zero_even_at_the_edges_of_the_draw():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    below = 1 - 2**-24  # the largest number that a stream can hold
    for draw, expected in ((0.0, 1), (0.4999, 1), (0.5, 3), (below, 3)):
        assert decoding._sample(logits, torch.tensor([draw]), 1.0, 0).tolist() == [expected]
    # sums that fall short of 1, or exceed it, by rounding
    for size in (3, 1000, 50_000):
        rows = torch.full((2, size + 2), -torch.inf)
        rows[:, 1:-1] = torch.randn(size, generator=torch.Generator().manual_seed(size))
        assert decoding._sample(rows, torch.tensor([0.0, below]), 0.7, 0).tolist() == [1, size]
    top = decoding._sample(torch.tensor([[1.0, 3.0, 2.0, 0.0]]).expand(2, 4), torch.tensor([0.0, below]), 1.0, 2)
    assert top.tolist() == [1, 2]


def test_streams_lie_below_1_and_differ_by_seed_prompt_and_sample():
    streams = [decoding._stream(*key, 5000) for key in itertools.product((0, "0 1"), ("a", "b"), (0, 1))]
    assert all(0 <= stream.min() < 0.01 and 0.99 < stream.max() < 1 for stream in streams)
    assert len({stream.tobytes() for stream in streams}) == 8
    assert decoding._stream(0, "a", 0, 7).tolist() == streams[0][:7].tolist()  # a longer limit goes on with the same


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_policy_is_refused_before_anything_is_sampled(one_of_each, broken):
    with torch.no_grad():
        one_of_each[0].get_output_embeddings().weight[5] = broken
    with pytest.raises(NonFiniteLogitsError, match="logits are not finite"):
        sampled(one_of_each)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OURS])
def test_the_prompts_are_read_once_for_all_their_samples(name):
    policy = model, _ = family(name), tiny_tokenizer()
    read, keys = [], []
    prompts = ask(policy)
    width, lengths = prompts.ids.shape[1], torch.tensor([4] * 12)
    rows_seen(model.get_encoder() if model.config.is_encoder_decoder else model.get_decoder(), read)
    for projection in cross_keys(model):
        rows_seen(projection, keys)
    generate(*policy, prompts, 10, 3, 0.7, lengths=lengths)
    if model.config.is_encoder_decoder:
        assert read == [(4, width)]
        assert keys == [(12, width)] * 2  # both layers, at the first step alone
    else:
        assert read == [(4, width), (12, 1), (12, 1), (12, 1)]  # no step after the last token


def test_t5_reads_the_prompts_once_and_each_step_only_its_own_token(products):
    policy = model, _ = family("t5"), tiny_tokenizer()
    prompts = ask(policy)
    generate(*policy, prompts, 10, 3, 0.7, lengths=torch.tensor([4] * 12))
    width = prompts.ids.shape[1]
    assert [products[module.weight] for module in cross_keys(model)] == [[(4, width)]] * 2
    own = [block.layer[0].SelfAttention.k.weight for block in model.decoder.block]
    assert [products[weight] for weight in own] == [[(12, 1)] * 4] * 2
