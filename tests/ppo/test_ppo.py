"""PPO on policies of a few thousand weights: the estimates of a rollout, and the steps taken from it."""

import math
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from paradox_utils import config
from paradox_utils.policies.passes import forward, grid
from paradox_utils.policies.prompts import Responses
from paradox_utils.ppo import OPTIMISERS, loop, objective, ppo
from paradox_utils.stages.ppo import load_actors
from tests.policies.test_prompts import KINDS, TEXTS, A, ask, plain_logits, tiny_model, tiny_tokenizer, unpadded

T5, LLAMA = KINDS
WANTED = 5  # the token `c`, which neither policy favours
NEVER = 10**6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in made.items():
        tiny_model(kind).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return {kind: str(folder) for kind, folder in made.items()}


@pytest.fixture
def settings(folders):
    """Parameters of a small run; ``kind`` names the policy."""

    def make(kind=T5, **changes):
        small = {"policy": folders[kind], "updates": 3, "response_limit": 6, "samples_per_prompt": 3, "learning_rate": 1e-2}
        return config.PPO(**small | changes)

    return make


def count(responses):
    """One for every `c` in the response."""
    return (responses.ids.eq(WANTED) & responses.mask.bool()).float()


def prompts_of(actors, texts=TEXTS):
    return ask((actors.policy, actors.tokenizer), texts)


def rolled_out(p, actors, reward=count, texts=TEXTS, seed=0):
    return loop.score(p, actors, loop.sample(p, actors, prompts_of(actors, texts), seed), reward)


def run(p, actors=None, reward=count, evaluate=lambda: {"lm_performance": 0.0}):
    actors, rewards = actors or load_actors(p), loop.Rewards(reward, None, None, None)
    setting = loop.Setting(p, actors, rewards, lambda update: prompts_of(actors), {}, evaluate, Path("nowhere"))
    return OPTIMISERS[p.optimiser](setting)


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def unchanged(model, before):
    return all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def flatten(policy):
    """Halve all logits: a policy that is less sure than the reference it came from."""
    norm = policy.decoder.final_layer_norm if policy.config.is_encoder_decoder else policy.model.norm
    with torch.no_grad():
        norm.weight.mul_(0.5)


# --- the rollout --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_kl_is_zero_before_the_first_update_and_only_then(settings, kind, precision):
    p = settings(kind, precision=precision)
    actors = load_actors(p)
    assert rolled_out(p, actors).kl.abs().max() < 1e-6
    flatten(actors.policy)
    assert rolled_out(p, actors).kl.abs().max() > 0.1


def one_token_kl(p, actors):
    """Estimates of 4,000 one-token responses to one prompt, and the exact log-probabilities of policy and reference by T."""
    rollout = rolled_out(p, actors, texts=["a b c"])
    prompt = unpadded(rollout.responses.prompts)[0]
    logits = [plain_logits(model, prompt, [A])[0].detach().double() for model in (actors.policy, actors.reference)]
    return rollout.kl, lambda temperature: [(x / temperature).log_softmax(-1) for x in logits]


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_kl_estimate_is_unbiased(settings, kind):
    p = settings(kind, response_limit=1, prompts_per_update=1, samples_per_prompt=4000)
    actors = load_actors(p)
    flatten(actors.policy)
    kl, exact = one_token_kl(p, actors)
    log_p, log_ref = exact(0.7)
    expected = float((log_p.exp() * (log_p - log_ref)).sum())
    error = float(kl.std()) / math.sqrt(4000)
    assert abs(float(kl.mean()) - expected) < 4 * error
    assert expected > 10 * error  # a KL of 0 would be told apart


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_kl_estimate_is_that_of_other_distributions_and_goes_negative(settings, kind):
    p = settings(kind, preset="as-published", top_k=3, response_limit=1, prompts_per_update=1, samples_per_prompt=4000)
    actors = load_actors(p)
    flatten(actors.policy)
    kl, exact = one_token_kl(p, actors)
    (log_p, log_ref), (sampling, _) = exact(1.0), exact(0.7)
    top = sampling.topk(3).indices
    taken = sampling[top].softmax(-1)
    expected = float((taken * (log_p - log_ref)[top]).sum())  # tokens of one distribution, log-probabilities of another
    error = float(kl.std()) / math.sqrt(4000)
    assert abs(float(kl.mean()) - expected) < 4 * error
    assert expected < -10 * error


def test_returns_are_the_rewards_less_the_penalty(settings):
    """At λ = γ = 1 the return of the first token is the whole reward − β · KL of the response."""
    p = settings(gae_lambda=1.0, kl_coefficient=0.3)
    actors = load_actors(p)
    flatten(actors.policy)
    rollout = rolled_out(p, actors)
    assert rollout.kl.abs().max() > 0.1
    torch.testing.assert_close(ppo.estimates(p, rollout)[1][:, 0], rollout.rewards.sum(1) - 0.3 * rollout.kl)
    torch.testing.assert_close(rollout.rewards, count(rollout.responses))


def test_advantages_are_whitened_over_tokens_and_zero_on_padding(settings):
    rollout = rolled_out(p := settings(), load_actors(p))
    padding = rollout.mask == 0
    assert padding.any()
    advantages, returns = ppo.estimates(p, rollout)
    for whole in (advantages, rollout.values, rollout.rewards, rollout.entropy, returns):
        assert (whole[padding] == 0).all()
    tokens = advantages[~padding]
    assert abs(float(tokens.mean())) < 1e-5
    assert abs(float(tokens.std(unbiased=False)) - 1) < 1e-5


def test_as_published_padding_reaches_the_returns_of_short_responses(settings):
    p = settings(preset="as-published", gae_lambda=1.0, kl_coefficient=0.0)
    rollout = rolled_out(p, load_actors(p))
    tokens = rollout.rewards[rollout.mask.bool()]
    mean, scale = tokens.mean(), tokens.std(unbiased=False).sqrt()
    whitened = (rollout.rewards - mean) / scale + mean  # on padding too
    torch.testing.assert_close(ppo.estimates(p, rollout)[1][:, 0], whitened.sum(1), atol=1e-4, rtol=1e-4)
    leak = (whitened * (1 - rollout.mask)).sum(1)
    assert leak[rollout.mask.sum(1) < 6].abs().min() > 0.05


def test_a_rollout_does_not_depend_on_micro_batches(settings):
    whole, parts = settings(), settings(pass_tokens=60)
    one, other = (rolled_out(p, load_actors(p)) for p in (whole, parts))
    assert torch.equal(one.responses.ids, other.responses.ids)
    for field in ("log_p", "log_ref", "values", "entropy"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), atol=1e-5, rtol=1e-5)


def test_measures_of_a_rollout_by_hand():
    mask = torch.tensor([[1.0, 1], [1, 0], [1, 1], [1, 1]])
    rewards = torch.tensor([[1.0, 2], [5, 0], [0, 0], [0, 2]])  # responses earn 3, 5 (one prompt) and 0, 2 (another)
    responses = Responses(None, mask.long(), mask.long(), [""] * 4, samples=2)
    log_p, entropy = torch.tensor([[0.5, 0.5], [2, 9], [0, 3], [4, 2]]), mask * 0.5  # what stands on padding counts for nothing
    measured = loop.measure(loop.Rollout(responses, mask, log_p, 0 * mask, mask, rewards, entropy))
    assert measured == {"reward_mean": 2.5, "reward_variance": 2.0, "kl": 3.0, "entropy": 0.5, "length": 7 / 4}
    responses = Responses(None, mask, mask, [""] * 4, 1)
    alone = loop.measure(loop.Rollout(responses, mask, log_p, 0 * mask, mask, rewards, entropy))
    assert math.isnan(alone["reward_variance"])  # one response a prompt has no spread


# --- the updates --------------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_losses_of_the_first_step_by_hand(settings):
    """Before any step the ratio is 1: the policy loss is minus the mean advantage (0), nothing clips, and V is the old V."""
    p = settings(epochs=1)
    actors = load_actors(p)
    rollout = rolled_out(p, actors)
    losses = ppo.optimise(p, actors, ppo.optimizer_of(p, actors), rollout, 1)
    assert abs(losses["policy_loss"]) < 1e-5
    assert losses["clip_share"] == 0
    errors = (rollout.values - ppo.estimates(p, rollout)[1])[rollout.mask.bool()]
    assert losses["value_loss"] == pytest.approx(0.5 * float((errors**2).mean()), rel=1e-4)


def test_each_epoch_is_one_step_with_gradients_clipped_by_network(settings):
    p = settings(epochs=3, max_gradient_norm=1e-3)
    actors = load_actors(p)
    optimizer = ppo.optimizer_of(p, actors)
    losses = ppo.optimise(p, actors, optimizer, rolled_out(p, actors), 1)
    assert losses["gradient_norm"] > 1e-2  # as it was before clipping
    for group in optimizer.param_groups:
        gradients = [weight.grad for weight in group["params"] if weight.grad is not None]
        assert float(torch.stack([g.norm() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-2)
        assert {int(optimizer.state[weight]["step"]) for weight in group["params"] if weight.grad is not None} == {3}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_make_the_same_update_as_the_whole_rollout(settings, kind):
    after = []
    for micro_batch in (0, 1, 60):
        p = settings(kind, pass_tokens=micro_batch, epochs=1, learning_rate=1e-3)
        actors = load_actors(p)
        rollout = rolled_out(settings(kind), actors)
        before = weights(actors.policy)
        ppo.optimise(p, actors, ppo.optimizer_of(p, actors), rollout, 1)
        assert not unchanged(actors.policy, before)
        after.append(weights(actors.policy) | {f"value {k}": v for k, v in weights(actors.value).items()})
    for other in after[1:]:
        torch.testing.assert_close(other, after[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value_model", ["separate", "shared"])
def test_the_value_loss_reaches_the_value_model_and_the_policy_only_where_they_share(settings, value_model, kind, monkeypatch):
    p = settings(kind, value_model=value_model, epochs=1)
    actors = load_actors(p)
    rollout = rolled_out(p, actors)
    returns = ppo.estimates(p, rollout)[1]
    monkeypatch.setattr(ppo, "estimates", lambda *_: (torch.zeros_like(returns), returns))  # leaves the value loss alone
    policy, value = weights(actors.policy), weights(actors.value)
    ppo.optimise(p, actors, ppo.optimizer_of(p, actors), rollout, 1)
    assert unchanged(actors.policy, policy) == (value_model == "separate")
    moved = {name.split(".")[0] for name, weight in actors.value.named_parameters() if not torch.equal(weight, value[name])}
    assert moved == ({"head", "body"} if value_model == "separate" else {"head"})
    assert unchanged(actors.reference, policy)


@pytest.mark.heavy
@pytest.mark.parametrize("value_clip", [None, 1e-4])
def test_values_follow_the_returns_unless_the_clip_holds_them(settings, value_clip):
    p = settings(epochs=30, learning_rate=5e-3, value_clip=value_clip)
    actors = load_actors(p)
    rollout = rolled_out(p, actors)
    optimizer = ppo.optimizer_of(p, actors)
    first = ppo.optimise(p.model_copy(update={"epochs": 1}), actors, optimizer, rollout, 1)["value_loss"]
    last = ppo.optimise(p, actors, optimizer, rollout, 1)["value_loss"]
    assert last < 0.5 * first if value_clip is None else last > 0.9 * first


def test_the_weight_of_the_value_loss_by_hand(settings):
    p = settings(epochs=1, value_weight=3.0, max_gradient_norm=None)
    actors = load_actors(p)
    rollout = rolled_out(p, actors)
    head = actors.value.head[0].weight
    values = loop.value_of(actors.value, rollout.responses, None)
    returns = ppo.estimates(p, rollout)[1]
    loss = 3.0 * 0.5 * (((values - returns) ** 2) * rollout.mask).sum() / rollout.mask.sum()
    (expected,) = torch.autograd.grad(loss, head)
    ppo.optimise(p, actors, ppo.optimizer_of(p, actors), rollout, 1)
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(head.grad, expected)


def test_the_clip_share_is_that_of_the_clips_asked_for(settings, monkeypatch):
    seen = []
    policy_loss, value_loss = objective.policy_loss, objective.value_loss
    monkeypatch.setattr(objective, "policy_loss", lambda *given: seen.append(given[-1]) or policy_loss(*given))
    monkeypatch.setattr(objective, "value_loss", lambda *given: seen.append(given[-1]) or value_loss(*given))
    p = settings(clip=1e-3, value_clip=0.35, epochs=2)
    actors = load_actors(p)
    assert ppo.optimise(p, actors, ppo.optimizer_of(p, actors), rolled_out(p, actors), 1)["clip_share"] > 0.2
    assert seen == [1e-3, 0.35] * 2


def test_bfloat16_is_used_where_it_is_asked_for(settings):
    full, p = rolled_out(settings(), load_actors(settings())), settings(precision="bfloat16")
    half = loop.score(p, load_actors(p), full.responses, count)
    difference = ((full.log_p - half.log_p) * full.mask).abs().max()
    assert 1e-4 < difference < 0.2
    assert half.log_p.dtype == half.values.dtype == torch.float32


@pytest.mark.heavy
def test_dropout_is_on_in_the_updates_and_nowhere_else(settings, monkeypatch):
    p = settings(dropout_in_updates=0.5, evaluate_every=1)
    without = rolled_out(settings(), load_actors(p))
    actors = load_actors(p)
    loop.set_dropout(actors.policy, 0.5)
    actors.policy.train()
    assert torch.equal(rolled_out(p, actors).log_p, without.log_p)  # old log-probabilities know no dropout
    seen, modes = [], []
    for module in (loop, ppo):
        monkeypatch.setattr(module, "forward", lambda *given: modes.append(given[0].training) or forward(*given))

    def evaluate():
        torch.manual_seed(len(seen))
        logits = [forward(actors.policy, without.responses)[0] for _ in range(2)]
        seen.append(torch.equal(*logits))
        return {"lm_performance": 0.0}

    run(p, actors, evaluate=evaluate)
    assert seen == [True] * 4
    assert modes.count(True) == 3 * p.epochs
    modes.clear()
    run(settings(), actors)
    assert True not in modes


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_reaches_every_layer_and_attention_too(settings, kind):
    actors = load_actors(settings(kind))
    rollout = rolled_out(settings(kind), actors)
    loop.set_dropout(actors.policy, 0.3)
    for layer in actors.policy.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0  # what is left is that of the attention weights
    actors.policy.train()
    one, other = (forward(actors.policy, rollout.responses)[0] for _ in range(2))
    assert not torch.equal(one, other)
    loop.set_dropout(actors.policy, 0.0)
    one, other = (forward(actors.policy, rollout.responses)[0] for _ in range(2))
    assert torch.equal(one, other)


def test_learning_rate_by_hand(settings):
    def rates(**changes):
        p = settings(learning_rate=1.0, **changes)
        return [ppo.learning_rate(p, update) for update in range(1, p.updates + 1)]

    assert rates(updates=4) == [1.0, 0.75, 0.5, 0.25]
    assert rates(updates=4, decay=False) == [1.0] * 4
    assert rates(updates=6, warmup_updates=2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(updates=3, warmup_updates=2, decay=False) == [0.5, 1.0, 1.0]
    assert rates(updates=2, warmup_updates=4) == [0.25, 0.5]  # never warm


@pytest.mark.parametrize(("updates", "warm", "epochs"), [(4, 2, 4), (3, 0, 2), (5, 9, 1), (5, 8, 4), (10, 10, 4)])
def test_as_published_the_learning_rate_moves_at_each_step_from_0_on(settings, updates, warm, epochs):
    p = settings(preset="as-published", updates=updates, warmup_updates=warm, epochs=epochs, learning_rate=1.0)
    found = [ppo.learning_rate(p, update, epoch) for update in range(1, updates + 1) for epoch in range(epochs)]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule, expected = get_scheduler("linear", optimizer, warm * epochs, updates * epochs), []
    for _ in found:
        expected += schedule.get_last_lr()
        optimizer.step(), schedule.step()
    assert found == pytest.approx(expected)
    if warm == 2:  # 2 warm updates of 4 steps each, then 8 steps down
        assert found == [k / 8 for k in range(8)] + [1 - k / 8 for k in range(8)]


def test_adam_of_8_times_the_gradient_is_adam_of_an_eighth_of_epsilon():
    gradients = torch.tensor([[1e-6, 3e-7, 1e-3], [-2e-6, 1e-7, 2e-3]])
    moved = []
    for scale, epsilon in ((8.0, 1e-5), (1.0, 1.25e-6), (1.0, 1e-5)):
        weight = torch.zeros(3, requires_grad=True)
        adam = torch.optim.Adam([weight], lr=1.0, eps=epsilon)
        for gradient in gradients:
            weight.grad = scale * gradient
            adam.step()
            moved.append(weight.detach().clone())
    torch.testing.assert_close(moved[:2], moved[2:4])
    # the first step is lr · g / (|g| + ε): at g = 1e-6 it is 1 / 2.25 against 1 / 11
    assert moved[2][0].item() == pytest.approx(-1 / 2.25, rel=1e-4)
    assert moved[4][0].item() == pytest.approx(-1 / 11, rel=1e-4)


def test_as_published_updates_are_those_on_the_sum_of_training_batches(settings):
    """The released code: each of 8 batches has its token mean as loss, weighted by the batch's mean length over the rollout's;
    Adam with ε = 1e-5 steps along the sum of their gradients, at a rate that moves with each step."""
    p = settings(preset="as-published", dropout_in_updates=0.0, samples_per_prompt=8, epochs=2, warmup_updates=1)
    actors, other = load_actors(p), load_actors(p)
    rollout = rolled_out(p, actors)
    optimizer = ppo.optimizer_of(p, actors)
    for update in (1, 2):
        ppo.optimise(p, actors, optimizer, rollout, update)

    networks = (other.policy, other.value)
    adam = torch.optim.Adam([weight for network in networks for weight in network.parameters()], lr=p.learning_rate, eps=1e-5)
    schedule = get_scheduler("linear", adam, p.warmup_updates * p.epochs, p.updates * p.epochs)
    mask, (advantages, returns) = rollout.mask, ppo.estimates(p, rollout)
    batches = torch.arange(len(mask)).chunk(8)
    assert len({float(mask[batch].sum()) for batch in batches}) > 3  # of unequal length
    for _ in range(2 * p.epochs):
        logits, seen = forward(other.policy, rollout.responses)
        log_p = grid(objective.log_probabilities(logits, rollout.responses.ids[mask.bool()], 1.0), mask)
        values = loop.value_of(other.value, rollout.responses, seen)
        losses = objective.policy_loss(log_p, rollout.log_p, advantages, p.clip)[0]
        losses = losses + objective.value_loss(values, rollout.values, returns, p.value_clip)
        adam.zero_grad()
        sum(objective.masked_mean(losses[b], mask[b]) * mask[b].sum(1).mean() / mask.sum(1).mean() for b in batches).backward()
        adam.step(), schedule.step()
    for mine, theirs in ((actors.policy, other.policy), (actors.value, other.value)):
        torch.testing.assert_close(weights(mine), weights(theirs), atol=1e-5, rtol=1e-5)


def test_the_schedule_is_what_the_optimizer_steps_by(settings):
    p = settings(updates=1, warmup_updates=10**6, learning_rate=1e-2)
    actors = load_actors(p)
    before = weights(actors.policy)
    outcome = run(p, actors)
    assert outcome.curve["learning_rate"].iloc[0] == pytest.approx(1e-8)
    moved = max(float((weight.detach() - before[name]).abs().max()) for name, weight in actors.policy.named_parameters())
    assert 0 < moved < 1e-6  # at the full rate it would be about 1e-2
