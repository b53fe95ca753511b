"""From gains to a choice: intervals by hand, and how often the words are right in worlds whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from paradox_utils.choose import aims, decision
from paradox_utils.choose.decision import contains_best, decide, standing
from paradox_utils.choose.gain import Reading

QUICK = {"resamples": 200, "seed": 0}
ALONE = QUICK | {"spread": 0.0}  # of other prompts alone


def reading(good, size=None):
    good = np.asarray(good, dtype=float)
    size = np.ones_like(good) if size is None else np.asarray(size, dtype=float)
    return Reading(0.1, np.ones_like(good), np.ones_like(good), good, size, good[:, None])


def pool(rng, gains, prompts, noise=0.3):
    """Candidates whose true gains are known: what a prompt says of each is that, what they share, and noise."""
    shared = rng.normal(0, noise, prompts)
    return [reading(gain + shared + rng.normal(0, noise, prompts)) for gain in gains], shared * 0


def choice(rng, gains, prompts=100):
    readings, start = pool(rng, gains, prompts)
    return decide([str(i) for i in range(len(gains))], readings, start, np.ones(prompts), **ALONE)


def test_a_gain_by_hand():
    """Pooled: (1 + 4) good of (2 + 5) segments, less (1 + 2) of (2 + 4)."""
    one = reading([1, 4], [2, 5])
    known = standing([one, one], np.array([1.0, 2.0]), np.array([2.0, 4.0]), **QUICK)
    assert known.gain[0].estimate == pytest.approx(5 / 7 - 1 / 2)


def test_the_interval_is_students_of_the_mean_over_prompts():
    values = np.random.default_rng(0).normal(size=400)
    known = standing([reading(values), reading(values * 0)], np.zeros(400), np.ones(400), resamples=4000, seed=0)
    half = 1.966 * values.std(ddof=1) / math.sqrt(400)  # t(0.975, 399)
    assert known.gain[0].high - known.gain[0].estimate == pytest.approx(half, rel=0.05)
    assert known.gain[1].high == known.gain[1].low == 0


def test_probabilities_and_regrets():
    clear = [reading(np.full(10, 0.5)), reading(np.full(10, 0.2))]
    known = standing(clear, np.zeros(10), np.ones(10), **QUICK)
    assert known.probability == pytest.approx([1, 0])
    assert known.regret == pytest.approx([0, 0.3])
    same = standing([clear[0]] * 4, np.zeros(10), np.ones(10), **QUICK)
    assert same.probability == pytest.approx([0.25] * 4)


@pytest.mark.parametrize(
    ("probability", "level", "best"),
    [([0.5, 0.3, 0.2], 0.8, [0, 1]), ([0.1, 0.9], 0.8, [1]), ([0.5, 0.5], 0.975, [0, 1]), ([0.2, 0.79, 0.01], 0.8, [1, 0])],
)
def test_sets_are_the_smallest(probability, level, best):
    assert contains_best(probability, level) == best


def test_what_is_said():
    rng = np.random.default_rng(4)
    assert choice(rng, [0.5, 0.0])[0].kind == "train"
    assert choice(rng, [0.5, 0.0])[0].names == ("0",)
    assert choice(rng, [0.5, 0.5])[0].kind == "undecided"
    worse, _ = choice(rng, [-0.5, -0.6])
    assert (worse.kind, worse.names[0]) == ("none", "0")


def test_the_best_of_bad_ones_is_not_trained_with():
    """Its gain is below zero; that all make the policy worse is said where its interval is, too."""
    noise = np.random.default_rng(0).normal(0, 0.3, 100)
    best = reading(noise - noise.mean() - 0.01)
    known, standing = decide(["a", "b"], [best, reading(best.good - 0.5)], np.zeros(100), np.ones(100), **ALONE)
    assert standing.gain[0].estimate < 0 < standing.gain[0].high
    assert (known.kind, known.names) == ("no gain", ("a",))
    other = reading(best.good[::-1].copy() - 0.001)  # nearly as good as the best
    alike, standing = decide(["a", "b"], [best, other], np.zeros(100), np.ones(100), **ALONE)
    assert max(standing.probability) < 0.975
    assert alike.kind == "no gain"
    still = reading(np.zeros(100))
    assert decide(["a", "b"], [best, still], np.zeros(100), np.ones(100), **ALONE)[0].names == ("b",)


def test_one_that_gains_is_trained_with_though_a_worse_one_is_likelier_the_best():
    """Copies share the probability of being the best: 0.3 each against 0.4 of one that makes the policy worse."""
    noise = np.random.default_rng(0).normal(0, 1, 100)
    good, worse = reading(noise - noise.mean() + 0.01), reading(np.full(100, -0.02))
    found, standing = decide("abc", [good, good, worse], np.zeros(100), np.ones(100), **ALONE)
    assert standing.probability[2] > max(standing.probability[:2])
    assert standing.gain[2].high < 0
    assert found.kind == "undecided"


def test_so_many_more_prompts_are_those_that_a_study_of_the_usual_power_needs():
    """δ = 0.1, σ of the difference 0.3 √2: n = (2.80 · 0.42 / 0.1)² = 141."""
    rng, found = np.random.default_rng(5), []
    for _ in range(40):
        readings, start = pool(rng, [0.1, 0.0], 60)
        means = [one.good.mean() for one in readings]
        gap, spread = abs(means[0] - means[1]), (readings[0].good - readings[1].good).std(ddof=1)
        by_hand = (2.80 * spread / gap) ** 2 - 60
        got = decision.more(readings, [0, 1], good=start, size=np.ones(60), resamples=1000, seed=0)
        if 40 < by_hand < 5000:
            found.append(got / by_hand)
    assert np.mean(found) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("spread", [0.0, decision.SPREAD])
def test_two_copies_of_one_model_are_never_told_apart(spread):
    rng = np.random.default_rng(6)
    for _ in range(30):
        (one,), start = pool(rng, [0.3], 50)
        known, _ = decide(["a", "b"], [one, one], start, np.ones(50), **QUICK, spread=spread)
        assert (known.kind, set(known.names), known.more, known.by_training) == ("undecided", {"a", "b"}, None, False)


def test_luck_of_a_training_makes_a_choice_less_sure_by_hand():
    """Without noise between prompts, 0.1 apart: the difference of two trainings deviates by 0.05 √2, so P(best) = Φ(√2), and
    the worse one's regret is 0.1 + E max(0, d) for d of mean −0.1 with that deviation. The interval is for other prompts."""
    clear = [reading(np.full(10, 0.5)), reading(np.full(10, 0.4))]
    known = standing(clear, np.zeros(10), np.ones(10), resamples=20_000, seed=0, spread=0.05)
    error = 0.05 * math.sqrt(2)
    chance = stats.norm.cdf(0.1 / error)
    better = error * stats.norm.pdf(0.1 / error) - 0.1 * (1 - chance)
    assert known.probability == pytest.approx([chance, 1 - chance], abs=0.01)
    assert known.regret == pytest.approx([better, 0.1 + better], abs=0.002)
    assert known.gain[0].low == known.gain[0].high == 0.5


@pytest.mark.parametrize(("gap", "alone"), [(0.13, True), (0.15, False)])
def test_no_number_of_prompts_overcomes_the_luck_of_a_training(gap, alone):
    """Which hides 1.96 √2 0.05 = 0.139 at this level."""
    noise = np.random.default_rng(0).normal(0, 0.3, 60)
    noise -= noise.mean()
    readings = [reading(gap + noise), reading(noise[::-1].copy())]
    known, _ = decide("ab", readings, np.zeros(60), np.ones(60), resamples=4000, seed=0, spread=0.05)
    assert (known.kind, known.by_training, known.more is None) == ("undecided", alone, alone)


def test_the_error_that_tells_two_apart_by_hand():
    """Without luck the gap over 1.96 + 0.84; with it 1.96 deviations of all fit below the gap less 0.84 of the prompts'."""
    assert decision.least_error(0.28, 0.0) == pytest.approx(0.28 / (1.95996 + 0.84162), rel=1e-4)
    error = decision.least_error(0.3, 0.05)
    assert 0.3 - 0.84162 * error == pytest.approx(1.95996 * math.sqrt(error**2 + 2 * 0.05**2), rel=1e-4)
    assert decision.least_error(0.1, 0.05) == 0.0


def test_the_spread_is_what_the_back_test_found():
    """Fitted for each number of judged prompts; a digit is all they bear."""
    fitted = aims.load()["judged"]["spread"]
    assert fitted.min() > 0.03
    assert round(fitted.mean(), 2) == decision.SPREAD


@pytest.mark.heavy
def test_equally_good_models_are_told_apart_in_one_of_twenty_pools():
    """What 150 pools show of a rate of 5 %: at most 9 %."""
    rng = np.random.default_rng(7)
    decided = [choice(rng, [0.2, 0.2])[0].kind == "train" for _ in range(150)]
    assert np.mean(decided) <= 0.09


@pytest.mark.parametrize("prompts", [2, 5, 12])
def test_few_prompts_decide_no_more_often(prompts):
    rng = np.random.default_rng(10)
    decided = [choice(rng, [0.2, 0.2], prompts)[0].kind == "train" for _ in range(150)]
    assert np.mean(decided) <= 0.11


@pytest.mark.heavy
def test_sets_of_eighty_percent_contain_the_best_about_so_often():
    """Pools of six whose true gains differ about as much as 100 prompts can tell."""
    rng, hits = np.random.default_rng(8), []
    for _ in range(150):
        gains = rng.normal(0, 0.05, 6)
        _, known = choice(rng, gains)
        hits.append(int(gains.argmax()) in contains_best(known.probability, decision.SET_LEVEL))
    assert 0.75 <= np.mean(hits) <= 0.90


def test_more_judged_prompts_cost_less():
    def regret(prompts):
        rng, lost = np.random.default_rng(9), []
        for _ in range(200):
            gains = rng.normal(0, 0.05, 6)
            readings, start = pool(rng, gains, prompts)
            found = decision.gains_of(readings, start, np.ones(prompts), np.ones((1, prompts)))[0]
            lost.append(gains.max() - gains[int(found.argmax())])
        return np.mean(lost)

    few, some, many = (regret(prompts) for prompts in (50, 100, 300))
    assert few > some > many
