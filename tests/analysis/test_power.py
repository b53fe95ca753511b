"""What a study of a given size can find: variances that were put in, designs by hand, and the power of the rule."""

import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import outcomes, power, statistics, tables, verdict
from tests.worlds import (
    TASKS,
    curves_of,
    inverted_u,
    lost,
    nested,
    questions_of,
    rising,
    run_page,
    study,
    world,
    written,
)

# --- the scores of questions ---


def test_questions_by_hand(tmp_path):
    lines = [
        "id,when,good,segments",
        "a,start,0 0,2 2",
        "a,final,1 2,2 2",
        "b,final,3 0,3 1",
        "b,final,0 0,3 1",
        "c,final,1 1,1 1",
    ]
    (tmp_path / "questions.csv").write_text("\n".join(lines))
    table = tables.load_questions(tmp_path)
    assert table.index.tolist() == ["a", "b", "c"]  # once each
    good, segments = tables.scores(table, ["b", "a"])
    assert (good.tolist(), segments.tolist()) == ([[3, 0], [1, 2]], [[3, 1], [2, 2]])
    found = tables.question_interval(table, ["a", "b"], [0, 1], resamples=200, seed=1)
    assert found.estimate == pytest.approx(3 / 4)  # 3 of 4 each: pooled, not the mean over questions
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    same = tables.question_interval(table, ["c", "c"], [0, 1], resamples=50, seed=1)
    assert (same.estimate, same.low, same.high) == (1, 1, 1)
    alone = tables.question_interval(table, ["a", "b"], [0, 0], resamples=50, seed=1)
    assert alone.estimate == pytest.approx(3 / 4)
    assert np.isnan([alone.low, alone.high]).all()
    with pytest.raises(tables.AnalysisError, match="unknown"):
        tables.scores(table, ["a", "unknown"])


@pytest.mark.parametrize("good", ["1 x", "1", "", "1 2 3"])
def test_scores_that_are_no_table_are_refused(tmp_path, good):
    (tmp_path / "questions.csv").write_text(f"id,when,good,segments\na,final,1 2,2 2\nb,final,{good},2 2\n")
    with pytest.raises(tables.AnalysisError, match=r"questions\.csv: good"):
        tables.scores(tables.load_questions(tmp_path), ["a", "b"])


def test_without_a_file_there_are_no_questions(tmp_path):
    table = tables.load_questions(tmp_path)
    assert table.empty
    assert list(table) == ["good", "segments"]


# --- the pilot ---


def pilot(size, rm, ppo, run, prompt=0.0, prompts=10, tasks=("factuality",), seed=0):
    """Summary and questions of a crossed pilot of ``size`` × ``size`` runs with noise of these standard deviations."""
    random, rows, asked = np.random.default_rng(seed), [], {}
    for task in tasks:
        reward_models, seeds = random.normal(0, rm, size), random.normal(0, ppo, size)
        for i in range(size):
            for j in range(size):
                level = 0.6 + reward_models[i] + seeds[j] + random.normal(0, run)
                shares = level + random.normal(0, prompt, prompts)
                key = f"{task} {i} {j}"
                rows.append(
                    {"id": key, "task": task, "rm_seed": i, "ppo_seed": j, "lm_performance_final": shares.mean()}
                    | {"status": "ok"}
                )
                asked[key] = {"good": " ".join(f"{4 * s:.12f}" for s in shares), "segments": " ".join(["4"] * prompts)}
    table = pd.DataFrame.from_dict(asked, orient="index")
    return pd.DataFrame(rows).sample(frac=1, random_state=seed), table  # in no order


@pytest.mark.heavy
def test_split_recovers_what_was_put_in():
    found = power.split(*pilot(60, rm=0.05, ppo=0.03, run=0.02, prompt=0.1)).loc["factuality"]
    assert found["rm seed"] == pytest.approx(0.05, rel=0.25)
    assert found["ppo seed"] == pytest.approx(0.03, rel=0.25)
    assert found["rest"] == pytest.approx(np.hypot(0.02, 0.1 / np.sqrt(10)), rel=0.05)
    assert found["prompts"] == pytest.approx(0.1 / np.sqrt(10), rel=0.05)
    rm, ppo, rest = found[["rm seed", "ppo seed", "rest"]]
    assert found["one run"] == pytest.approx(np.sqrt(rm**2 + ppo**2 + rest**2))
    assert found["3 × 3 crossed"] == pytest.approx(np.sqrt(rm**2 / 3 + ppo**2 / 3 + rest**2 / 9))
    assert found["5 × 1 nested"] == pytest.approx(found["one run"] / np.sqrt(5))
    assert found["9 × 1 nested"] == pytest.approx(found["one run"] / 3)


def test_questions_of_several_segments_weigh_more():
    summary, asked = pilot(3, rm=0.05, ppo=0.0, run=0.02, prompt=0.1, prompts=3)
    summary, asked = summary[summary["ppo_seed"] < 2], asked.assign(segments="2 4 9")  # 3 × 2 runs; good stays
    by_run = asked["good"].str.split(expand=True).astype(float)
    shares = [[by_run.loc[f"factuality {i} {j}"] / 5 for j in range(2)] for i in range(3)]  # a run's mean is its pooled share
    performance = summary.pivot(index="rm_seed", columns="ppo_seed", values="lm_performance_final")
    found = power.variance_components(performance, shares)
    assert power.split(summary, asked).loc["factuality", "prompts"] == pytest.approx(np.sqrt(found[3]))


def test_variance_components_by_hand():
    # row means 1, 3; column means 1, 2, 3; no interaction: var of row means 2 = rm, of column means 1 = ppo
    found = power.variance_components([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]], np.zeros((2, 3, 2)))
    assert found == pytest.approx((2, 1, 0, 0))
    # only an interaction ±1: MS_rest = 4 / 1, and the unbiased main components are −4 / 2
    found = power.variance_components([[1.0, -1.0], [-1.0, 1.0]], np.zeros((2, 2, 2)))
    assert found[:3] == (-2, -2, 4)


def test_variance_components_are_recovered():
    random, found = np.random.default_rng(8), []
    S, P, Q, truth = 4, 5, 50, (0.0025, 0.0009, 0.0016)
    for _ in range(1500):
        rm, ppo, run = (random.normal(0, np.sqrt(v), n) for v, n in zip(truth, [(S, 1, 1), (1, P, 1), (S, P, 1)], strict=True))
        scores = rm + ppo + run + random.normal(0, 0.2, Q) + random.normal(0, 0.3, (S, P, Q))
        found.append(power.variance_components(scores.mean(axis=2), scores))
    expected = (0.0025, 0.0009, 0.0016 + 0.09 / Q, 0.09 / Q)
    assert np.mean(found, axis=0) == pytest.approx(expected, rel=0.08)


def test_nested_designs_average_more_ppo_noise_away():
    assert power.design_variance(0.04, 0.02, 0.012, 4, 3, nested=False) == pytest.approx(0.01 + 0.02 / 3 + 0.001)
    assert power.design_variance(0.04, 0.02, 0.012, 4, 3, nested=True) == pytest.approx(0.01 + 0.02 / 12 + 0.001)


def test_design_variance_is_that_of_simulated_designs():
    random = np.random.default_rng(9)
    rm, run = random.normal(0, 0.2, (20_000, 3, 1)), random.normal(0, 0.1, (20_000, 3, 2))
    for own, shape in ((False, (20_000, 1, 2)), (True, (20_000, 3, 2))):
        means = (rm + run + random.normal(0, np.sqrt(0.02), shape)).mean(axis=(1, 2))
        assert means.var() == pytest.approx(power.design_variance(0.04, 0.02, 0.01, 3, 2, own), rel=0.05)


def test_unusable_pilots_are_refused():
    for pilot in ([[1.0, 2.0]], [1.0, 2.0], [[1.0, np.nan], [1.0, 2.0]], []):
        with pytest.raises(ValueError, match="at least 2 RM seeds"):
            power.variance_components(pilot, np.zeros((2, 2, 4)))
    for scores in (np.zeros((2, 3, 4)), np.zeros((2, 2, 1)), np.full((2, 2, 4), np.inf)):
        with pytest.raises(ValueError, match="scores of shape"):
            power.variance_components(np.zeros((2, 2)), scores)


def test_a_component_below_zero_counts_as_zero():
    summary, asked = pilot(2, rm=0, ppo=0, run=0)
    cells = {"factuality 0 0": 0.7, "factuality 1 1": 0.7, "factuality 0 1": 0.5, "factuality 1 0": 0.5}  # interaction alone
    found = power.split(summary.assign(lm_performance_final=summary["id"].map(cells)), asked).loc["factuality"]
    assert found[["rm seed", "ppo seed"]].tolist() == [0, 0]
    assert found["rest"] == pytest.approx(0.2) == found["one run"]


def test_tasks_are_split_apart_in_their_order():
    quiet, asked = pilot(3, rm=0.0, ppo=0.0, run=0.001, tasks=("completeness",))
    loud, more = pilot(3, rm=0.0, ppo=0.0, run=0.1, tasks=("relevance",), seed=1)
    found = power.split(pd.concat([quiet, loud]), pd.concat([asked, more]))
    assert found.index.tolist() == ["relevance", "completeness"]
    assert found.loc["relevance", "one run"] > 10 * found.loc["completeness", "one run"]


def test_unit_noise_by_hand():
    table = pd.DataFrame({"rm seed": [0.03, 0.03], "ppo seed": [0.04, 0.0], "rest": [0.12, 0.0]})
    assert power.unit_noise(table, 4).tolist() == pytest.approx([0.03**2 + (0.04**2 + 0.12**2) / 4, 0.03**2])


# --- power ---


@pytest.mark.parametrize("regret", [0.0, 0.04, 0.12])
@pytest.mark.parametrize("best", [2, 3, 5])
def test_truths_have_the_stated_regret(regret, best):
    worlds = power.truths(regret, best)
    assert {len(world) for world in worlds.values()} == {power.RANKS}
    assert {max(world) for world in worlds.values()} == {0.9}
    regrets = {name: max(world) - world[0] for name, world in worlds.items()}
    assert regrets == pytest.approx({"inverted U": regret, "rising": 0, "plateau": 0})
    turns = np.diff(worlds["inverted U"])
    assert (turns[: best - 1] >= 0).all()
    assert (turns[best - 1 :] < 0).all()
    assert worlds["inverted U"][best - 1] == pytest.approx(0.9)
    assert (np.diff(worlds["rising"]) < 0).all()
    assert len(set(worlds["plateau"][: power.RANKS // 2])) == 1


@pytest.mark.parametrize("truth", [[0.75, 0.83, 0.85, 0.80], [0.9, 0.82, 0.74, 0.66], [0.8, 0.82, 0.8, 0.8]])
@pytest.mark.parametrize("units", [3, 6])
def test_verdict_rates_are_those_of_the_studies_one_by_one(truth, units):
    means = np.array([truth] * units)
    counts = {"supported": 0, "not supported": 0}
    for one in means + np.random.default_rng(0).normal(0, 0.02, (80, *means.shape)):
        found = statistics.cross_fitted_regret(one - one[:, :1], margin=verdict.MARGIN)
        if found.p_above <= verdict.ALPHA:
            counts["supported"] += 1
        elif found.p_below <= verdict.ALPHA:
            counts["not supported"] += 1
    rates = power.verdict_rates(means, 0.02, studies=80)
    assert rates == {name: count / 80 for name, count in counts.items()}
    assert max(rates.values()) > 0


def test_a_rank_that_is_not_common_to_the_units_is_not_found():
    same, apart = [[0.8, 0.9, 0.8]] * 3, [[0.8, 0.9, 0.8], [0.8, 0.8, 0.9], [0.9, 0.8, 0.8]]
    assert power.verdict_rates(same, 0.01, studies=50)["supported"] > 0.5
    assert power.verdict_rates(apart, 0.01, studies=50)["supported"] == 0


def test_power_grows_with_units_and_effect_and_shrinks_with_noise():
    few, many = (power.simulated_power(0.03, [n], [0.04, 0.08, 0.14], studies=400) for n in (3, 12))
    names = ["ranks apart", "one task", "one task, others rising", "rising", "plateau"]
    assert few["world"].tolist() == ["inverted U"] * 3 + names
    # one task alone: no regret of all to find
    grows = few.index[(few["regret"] != 0.04) & ~few["world"].str.startswith("one task")]
    assert (many["right"][grows] > few["right"][grows]).all()
    assert many["right"][3] < many["right"][2]  # no common rank has the whole regret
    assert many["right"][4] < 0.05
    assert few["right"][:3].is_monotonic_increasing
    assert many["right"][:3].is_monotonic_increasing
    assert many["right"][0] <= 0.05  # the regret is on the margin: the rule's error, not its power
    assert many["right"][2] > 0.95
    assert many["right"][5] == 0  # on average over tasks nothing is there
    assert many["right"][6] > 0.95
    most = power.simulated_power(0.03, [96], [0.14], studies=100).set_index("world")
    assert most["wrong"]["one task, others rising"] > 0.5  # a large study overlooks the one task
    noisy = power.simulated_power(0.06, [12], [0.04, 0.08, 0.14], studies=400)
    assert (noisy["right"][grows] < many["right"][grows]).all()
    for table in (few, many):
        assert (table["wrong"].drop(5) <= 0.05).all()
        assert (table["right"] + table["wrong"] <= 1).all()


def test_power_has_a_row_for_each_number_and_world():
    found = power.simulated_power(0.05, [3, 5], [0.06, 0.1], studies=10)
    worlds = [("inverted U", 0.06), ("inverted U", 0.1), ("ranks apart", 0.1), ("one task", 0.1)]
    worlds += [("one task, others rising", 0.1), ("rising", 0), ("plateau", 0)]
    rows = found[["units", "world", "regret"]].itertuples(index=False, name=None)
    assert list(rows) == [(n, world, regret) for n in (3, 5) for world, regret in worlds]


@pytest.mark.heavy
def test_a_study_s_own_power():
    made = nested(inverted_u, rm_seeds=5, noise=0.02)
    units, noise, large = power.own_power(made, 0.2, studies=200)
    assert (units, noise) == (15, power.noise_by_rank(made).iloc[0])
    assert large["supported"] > 0.95
    assert power.own_power(made, 0.02, studies=200)[2]["supported"] < 0.05
    _, noise, rates = power.own_power(made[made["rm_seed"] == 0], 0.2)
    assert np.isnan([noise, *rates.values()]).all()  # one unit a task has no noise
    assert power.own_power(made.head(0), 0.2)[0] == 0


# --- the page ---


def crossed(**options):
    """A pilot as a study writes it: one checkpoint of three reward models a task, each with the same three PPO seeds."""
    return world(rising, **({"rm_seeds": 3, "accuracies": (0.75,), "noise": 0.03} | options))


TRIED = {  # LM performance on validation questions after PPO, by PPO seed
    ("relevance", "1e-04"): (0.8, 0.6),
    ("relevance", "0.001"): (0.4,),
    ("completeness", "1e-04"): (0.2, 0.4),
    ("completeness", "0.001"): (0.9, 0.0),  # the last one failed: its score does not count
}


def tried(folder):
    """A folder with the runs of :data:`TRIED`."""
    rows, curves, rates = [], [], []
    for (task, rate), scores in TRIED.items():
        for seed, score in enumerate(scores):
            rows.append({"id": f"{task}-{rate}-{seed}", "task": task, "ppo_seed": seed, "status": "ok" if score else "failed"})
            rates.append({"id": rows[-1]["id"], "learning_rate": float(rate)})
            path = {"kl": [0.0, 0.1], "lm_performance": [0.5 if task == "relevance" else 0.1, score]}
            curves.append(pd.DataFrame({"id": rows[-1]["id"], "update": [0, 1], **path}))
    others = crossed(tasks=TASKS[:1], rm_seeds=1, ppo_seeds=1).drop(columns=["lm_performance_validation", *rows[0]])
    pd.concat(curves).to_csv(written(pd.DataFrame(rows).merge(others, how="cross"), folder) / "curves.csv", index=False)
    pd.DataFrame(rates).to_csv(folder / "parameters.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A study of two policies, the former runs of the second, and its runs at two rates (:func:`tried`)."""
    made = nested(rising, rm_seeds=4)
    second = made.assign(policy="atlas-t5-large", id="second-" + made["id"])
    parts = {"study": [made, second], "former": [second.assign(lm_performance_final=0.5)]}
    found = {"rates": str(tried(tmp_path_factory.mktemp("rates")))}
    for name, runs in parts.items():
        summary = pd.concat(runs, ignore_index=True)
        found[name] = str(written(summary, tmp_path_factory.mktemp(name)))
        rate = curves_of(summary).assign(learning_rate=lambda t: 1e-3 * (1 - t["update"] / 20).where(t["update"] > 0))
        rate.to_csv(f"{found[name]}/curves.csv", index=False)
    return found


@pytest.mark.slow
def test_the_page_runs_on_a_pilot(folders, tmp_path):
    names = run_page("10", study(crossed(), tmp_path), tmp_path / "out", **folders)
    rates = names["chosen"]
    assert rates.columns.tolist() == ["relevance", "completeness", "mean", "standard error"]
    assert rates.index.tolist() == ["0.0001", "0.001", "before PPO"]
    means = rates.drop(columns="standard error").to_numpy(float)
    np.testing.assert_allclose(means, [[0.7, 0.3, 0.5], [0.4, 0.9, 0.65], [0.5, 0.1, 0.3]])
    assert rates["standard error"].isna().tolist() == [False, True, True]  # of one seed there is none
    assert rates.loc["0.0001", "standard error"] == pytest.approx(0, abs=1e-12)  # both seeds have 0.5 over the tasks
    assert names["best"].name == 0.001
    assert names["changed"].loc[("its own rate", "all"), "status"] == "not supported"
    assert names["changes"]["own rate"].tolist() == pytest.approx([1e-3 * 19 / 20] * 3)  # the largest of a schedule
    assert names["split"].index.tolist() == list(TASKS)
    assert len(names["known"]) == 5 * (3 + 5)
    assert (names["units"], names["policies"], len(names["here"])) == (15, 2, 8)
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.slow
def test_the_page_runs_on_a_pilot_of_one_task(folders, tmp_path):
    names = run_page("10", study(crossed(tasks=TASKS[:1]), tmp_path), **folders)
    assert names["split"].index.tolist() == ["relevance"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["a run", "a task", "a second arm"])
def test_the_page_runs_where_runs_have_no_result(fault, folders, tmp_path):
    made = crossed()
    if fault == "a second arm":
        made = pd.concat([made, made.assign(arm="exact", id="x" + made["id"])])
    else:
        made = lost(made, made.index[:1] if fault == "a run" else made.index[made["task"] == "completeness"])
    run_page("10", study(made, tmp_path), **folders)


def test_scores_of_a_made_study_agree_with_its_summary(tmp_path):
    made = crossed(tasks=TASKS[:1], rm_seeds=1, ppo_seeds=1)
    questions_of(made, questions=4000).to_csv(tmp_path / "questions.csv", index=False)
    good, segments = tables.scores(tables.load_questions(tmp_path), made["id"])
    assert good.sum() / segments.sum() == pytest.approx(made[outcomes.READINGS["as measured"]][0], abs=0.01)
