"""Forward passes that share what responses have in common, against a plain pass over each response alone without padding."""

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BartForConditionalGeneration,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from paradox_utils.policies import t5
from paradox_utils.policies.passes import forward, grid, last_states, reaching_head
from paradox_utils.policies.prompts import Prompts, Responses, passes, rows_of, take
from paradox_utils.ppo import objective
from tests.policies.test_prompts import EOS, PAD, TEXTS, ask, tiny_model, tiny_tokenizer, unpadded

COMMON = {"vocab_size": 13, "pad_token_id": PAD, "eos_token_id": EOS}
T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": PAD}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64, "decoder_start_token_id": EOS}
BART |= {"init_std": 0.4, "forced_eos_token_id": None, "bos_token_id": None}
GEMMA = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
GEMMA |= {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
GEMMA |= {"initializer_range": 0.4, "query_pre_attn_scalar": 8, "bos_token_id": None, "max_position_embeddings": 64}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.4, "bos_token_id": None}
FAMILIES = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(**COMMON, **T5_SIZES)),
    "t5-untied": lambda: T5ForConditionalGeneration(T5Config(**COMMON, **T5_SIZES, **GATED)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**COMMON, **T5_SIZES)),
    "umt5": lambda: UMT5ForConditionalGeneration(UMT5Config(**COMMON, **T5_SIZES)),
    "bart": lambda: BartForConditionalGeneration(BartConfig(**COMMON, **BART)),
    "llama": lambda: tiny_model("decoder-only"),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**COMMON, **GPT2)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**COMMON, **GEMMA, attn_implementation="eager")),
}
OURS = {"t5", "t5-untied", "mt5"}  # whose passes are t5.py's
LENGTHS = [5, 1, 2, 7, 3, 3, 1, 4, 6, 2, 1, 1]  # three responses to each of four prompts


def family(name):
    """A tiny model of a family, in evaluation mode, whose cross-attention is far from uniform."""
    torch.manual_seed(4)
    model = FAMILIES[name]().eval()
    with torch.no_grad():
        for module in (m for n, m in model.named_modules() if n.endswith(("EncDecAttention.q", "encoder_attn.q_proj"))):
            module.weight.mul_(8)
    return model


@pytest.fixture(params=list(FAMILIES))
def model(request):
    return family(request.param)


def answers(model, lengths=LENGTHS, texts=TEXTS, seed=0):
    """Random responses of these lengths; those of more than 2 tokens end in the end of sequence."""
    width, generator = max(lengths), torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    ids = torch.randint(2, 13, mask.shape, generator=generator) * mask
    for row, length in enumerate(lengths):
        ids[row, length - 1] = EOS if length > 2 else ids[row, length - 1]
    prompts = ask((model, tiny_tokenizer()), texts)
    return Responses(prompts, ids, mask, [""] * len(lengths), len(lengths) // len(texts))


def alone(model, prompt, response):
    """Logits and states that predict one response to one prompt, lists of ids without padding: the textbook computation."""
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        inputs = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([[start, *response[:-1]]])}
        output = model(**inputs, output_hidden_states=True, use_cache=False)
        return output.logits[0], output.decoder_hidden_states[-1][0]
    output = model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True, use_cache=False)
    return output.logits[0, len(prompt) - 1 : -1], output.hidden_states[-1][0, len(prompt) - 1 : -1]


def each_alone(model, responses):
    """The same of all responses one by one, their real tokens in a row."""
    prompts = [ids for ids in unpadded(responses.prompts) for _ in range(responses.samples)]
    pairs = [alone(model, prompt, tokens) for prompt, tokens in zip(prompts, responses.tokens(), strict=True)]
    return tuple(torch.cat(rows) for rows in zip(*pairs, strict=True))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


# --- exactness ----------------------------------------------------------------------------------------------------------------


def test_logits_states_and_every_gradient_are_those_of_each_response_alone(model):
    responses = answers(model)
    assert responses.prompts.mask.eq(0).any()
    real = responses.mask.bool()
    taken, count = responses.ids[real], sum(LENGTHS)
    generator = torch.Generator().manual_seed(1)
    weights, pull = torch.randn(count, generator=generator), torch.randn(count, 16, generator=generator)
    results = []
    for compute in (forward, each_alone):
        logits, seen = compute(model, responses)
        seen = seen[real] if seen.dim() == 3 else seen
        assert (logits.shape, seen.shape) == ((count, 13), (count, 16))
        log_p = (logits / 0.7).log_softmax(-1).gather(1, taken[:, None])[:, 0]
        ((log_p * weights).sum() / count + (seen * pull).sum() / count).backward()
        results.append((logits.detach(), log_p.detach(), seen.detach(), gradients(model)))
    (logits, log_p, seen, found), (plain_logits, plain_log_p, plain_seen, expected) = results
    close(logits, plain_logits)
    close(log_p, plain_log_p)
    close(seen, plain_seen)
    assert found.keys() == expected.keys() == dict(model.named_parameters()).keys()
    felt = [float(gradient.abs().max()) for name, gradient in expected.items() if not name.endswith("k_proj.bias")]
    assert min(felt) > 1e-4  # nothing is left out on either side; the bias of a key cancels in the softmax
    close(found, expected)


@pytest.mark.heavy
def test_our_log_probabilities_have_the_gradients_of_the_plain_ones(model):
    """The gradient that is written over the logits, through every kind of head (scaled, with a bias, soft-capped)."""
    responses = answers(model)
    taken = responses.ids[responses.mask.bool()]
    results = []
    for ours in (True, False):
        logits = (forward if ours else each_alone)(model, responses)[0]
        plain = (logits / 0.7).log_softmax(-1).gather(1, taken[:, None])[:, 0]
        log_p = objective.log_probabilities(logits, taken, 0.7) if ours else plain
        (log_p * torch.linspace(-1, 1, len(taken))).mean().backward()
        results.append((log_p.detach(), gradients(model)))
    close(*results)


@pytest.mark.parametrize("tokens", [1, 30, 60, 100])
def test_passes_of_any_size_give_the_same_logits_states_and_gradients(model, tokens):
    responses = answers(model)
    width, results = responses.ids.shape[1], []
    for budget in (0, tokens):
        found, seen = torch.zeros(12, width), torch.zeros(12, width, 16)
        for chosen in passes(responses, budget):
            part, rows = take(responses, chosen), rows_of(chosen, 3)
            logits, states_of_part = forward(model, part)
            log_p = objective.log_probabilities(logits, part.ids[part.mask.bool()], 1.0)
            (log_p.sum() / sum(LENGTHS)).backward()
            found[rows, : part.ids.shape[1]] = grid(log_p.detach(), part.mask)
            seen[rows, : part.ids.shape[1]] = states_of_part.detach() * part.mask[..., None]
        results.append((found, seen, gradients(model)))
    assert len(list(passes(responses, tokens))) > (1 if tokens < 100 else 0)
    close(results[1], results[0])


def test_more_padding_changes_neither_logits_nor_states(model):
    responses = answers(model)
    sides = (0, 3) if model.config.is_encoder_decoder else (3, 0)
    wide = [torch.nn.functional.pad(tensor, sides) for tensor in (responses.prompts.ids, responses.prompts.mask)]
    ids, mask = (torch.nn.functional.pad(tensor, (0, 4)) for tensor in (responses.ids, responses.mask))
    padded = Responses(Prompts(responses.prompts.questions, *wide, 0), ids, mask, responses.texts, 3)
    (logits, seen), (expected, expected_seen) = forward(model, padded), forward(model, responses)
    close(logits, expected)
    close(seen[mask.bool()], expected_seen[responses.mask.bool()])


def test_responses_of_a_single_token(model):
    responses = answers(model, lengths=[1, 1, 1, 1])
    logits, seen = forward(model, responses)
    expected, expected_seen = each_alone(model, responses)
    assert seen.shape == (4, 1, 16)
    close(logits, expected)
    close(seen[:, 0], expected_seen)


def test_a_value_body_that_starts_from_the_policy_has_its_states_and_their_gradients(model, tmp_path):
    model.save_pretrained(tmp_path)
    body = AutoModel.from_pretrained(tmp_path, attn_implementation=model.config._attn_implementation).eval()
    responses = answers(model)
    real = responses.mask.bool()
    ours, plain = last_states(body, responses), forward(model, responses)[1]
    assert ours.shape == (*responses.ids.shape, 16)
    close(ours[real], plain[real])
    pull = torch.randn(*ours.shape, generator=torch.Generator().manual_seed(1)) * real[..., None]
    (ours * pull).mean().backward()
    (plain * pull).mean().backward()
    found, expected = gradients(body), gradients(model)
    shared = [name for name in expected if name.removeprefix(f"{model.base_model_prefix}.") in found]
    assert len(shared) >= len(found) - 1 > 5
    for name in shared:
        close(found[name.removeprefix(f"{model.base_model_prefix}.")], expected[name])


def test_a_response_sees_its_own_past_alone(model):
    """Changing a token changes what is predicted after it, and nothing up to it nor in another response."""
    responses = answers(model)
    before = grid(forward(model, responses)[0].exp().sum(-1), responses.mask)
    responses.ids[0, 1] = 4 if responses.ids[0, 1] != 4 else 5
    after = grid(forward(model, responses)[0].exp().sum(-1), responses.mask)
    close(after[0, :2], before[0, :2])
    close(after[1:], before[1:])
    assert (after[0, 2:5] - before[0, 2:5]).abs().min() > 1e-3


def test_values_on_a_grid_by_hand():
    mask = torch.tensor([[1, 0, 0], [1, 1, 0]])
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    found = grid(values, mask)
    assert found.tolist() == [[1.0, 0.0, 0.0], [2.0, 3.0, 0.0]]
    (found * torch.tensor([[5.0, 9.0, 9.0], [6.0, 7.0, 9.0]])).sum().backward()
    assert values.grad.tolist() == [5.0, 6.0, 7.0]


# --- nothing is done twice ----------------------------------------------------------------------------------------------------


def rows_seen(module, log):
    """Log the rows (all but the last dimension) that a module is given, by its caller or by a pass on its weight."""

    def hook(_module, arguments, named, _output):
        given = arguments[0] if arguments else named.get("input_ids", named.get("hidden_states"))
        log.append(tuple(given.shape[: 2 if given.dim() == 3 else None]))

    return module.register_forward_hook(hook, with_kwargs=True)


def cross_keys(model):
    ends = ("EncDecAttention.k", "encoder_attn.k_proj")
    return [module for name, module in model.named_modules() if name.endswith(ends)]


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - OURS))
def test_the_prompts_are_read_once_and_only_real_tokens_reach_the_head(name):
    model = family(name)
    responses = answers(model)
    read, keys, head = [], [], []
    rows_seen(model.get_output_embeddings(), head)
    if model.config.is_encoder_decoder:
        rows_seen(model.get_encoder(), read)
        for projection in cross_keys(model):
            rows_seen(projection, keys)
    else:
        rows_seen(model.get_decoder(), read)
    forward(model, responses)
    width = responses.prompts.ids.shape[1]
    assert head == [(sum(LENGTHS), 16)]
    if model.config.is_encoder_decoder:
        assert read == [(4, width)]  # 4 prompts, 12 responses
        assert keys == [(12, width)] * 2
    else:
        assert read == [(4, width), (12, max(LENGTHS) - 1)]  # the last token of a response predicts nothing


def test_prompts_are_read_once_by_the_passes_of_t5_as_well(products):
    model = family("t5")
    responses = answers(model)
    forward(model, responses)
    width = responses.prompts.ids.shape[1]
    queries = [layer.layer[0].SelfAttention.q.weight for layer in model.encoder.block]
    assert [products[weight] for weight in queries] == [[(4, width)]] * 2
    assert [products[module.weight] for module in cross_keys(model)] == [[(4, width)]] * 2
    assert products[model.lm_head.weight][-1] == (sum(LENGTHS), 16)


def test_t5_and_mt5_have_passes_of_their_own():
    assert {name for name in FAMILIES if t5.speaks(family(name))} == OURS


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - OURS))
def test_nothing_is_left_on_a_model_after_a_pass_even_one_that_failed(name):
    model = family(name)
    responses = answers(model)

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    def fail(*_):
        raise RuntimeError("stop")

    forward(model, responses)
    before = hooks()
    handle = model.get_output_embeddings().register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        forward(model, responses)
    handle.remove()
    assert hooks() == before
    with model.register_forward_hook(fail), reaching_head(model, fail):
        assert hooks() >= before + 2
    assert hooks() == before
