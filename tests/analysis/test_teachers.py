"""What goes with a good teacher, and the page that asks why: by hand, and in worlds whose truth is known."""

import re

import numpy as np
import pandas as pd
import pytest

from paradox_utils import files
from paradox_utils.analysis import statistics, teachers
from tests.worlds import TASKS, flat, lost, nested, probed, rising, run_page, study, world

# --- measures ---


def test_along_by_hand():
    agreement = [0.9, 0.8, 0.7, 0.5]
    tiny = pd.DataFrame(
        {"id": "a", "reward_mean": [1.0, 2, 3, 6], "reward_variance": [0.1, 0.3, 0.2, 0.2], "kl": [0.0, 1, 2, 1]}
    )
    long = pd.DataFrame({"id": "b", "reward_mean": 1.0, "reward_variance": 0.0, "kl": 0.0, "rm_agreement": np.arange(20.0)})
    found = teachers.along(pd.concat([tiny.assign(rm_agreement=agreement), long]))
    assert list(found) == list(teachers.ALONG)
    assert found.loc["a"].tolist() == pytest.approx([3, 14 / 3, 0.2, 1, 0.5, 0.4])  # squares from 3: 4 + 1 + 0 + 9
    assert found.loc["b", ["agreement_end", "agreement_lost"]].tolist() == [18.5, 0.5 - 18.5]  # a tenth: two updates
    older = teachers.along(tiny)
    assert older.loc["a", "reward_level"] == 3
    assert older.loc["a", ["agreement_end", "agreement_lost"]].isna().all()
    assert teachers.along(tiny.head(0)).empty


def test_standardised_by_hand():
    table = pd.DataFrame(
        {"group": list("aaabbb"), "x": [1.0, 2, 3, 100, 100, 400], "same": [7.0] * 6, "part": [1, 3, np.nan] * 2}
    )
    found = teachers.standardised(table, ["x", "same", "part"])
    assert found["x"].tolist() == pytest.approx([-1, 0, 1, -1 / np.sqrt(3), -1 / np.sqrt(3), 2 / np.sqrt(3)])
    assert (found["same"] == 0).all()
    assert found["part"].tolist()[:2] == pytest.approx([-1 / np.sqrt(2), 1 / np.sqrt(2)])
    assert np.isnan(found["part"][2])
    beside = teachers.standardised(pd.DataFrame({"group": ["a"] * 3, "x": [1.0, 1.0, np.nan]}), ["x"])
    assert np.isnan(beside["x"][2])  # what was not measured stays so beside constants


def test_teachers_average_runs_of_a_reward_model_and_keep_policies_apart():
    made = world(flat, rm_seeds=2, ppo_seeds=2, accuracies=(0.6, 0.9), tasks=("relevance",))
    made["lm_performance_final"] = [0.6, 0.8, 0.5, np.nan, 0.9, 0.9, 0.4, 0.6]
    made.loc[5, "status"] = "failed"  # its number does not count
    other = made.assign(policy="large", id="l" + made["id"], lm_performance_final=1.0, status="ok")
    dials = made.assign(arm="dial", route="dial", id="d" + made["id"])
    again = made.assign(arm="label-noise").head(1)  # the same run, asked for by a second arm
    route = made.assign(arm="label-noise", id="n" + made["id"])
    summary = pd.concat([made, other, dials, again])
    curves = pd.DataFrame({"id": made["id"], "reward_mean": [1.0, 3, 5, 0, 7, 0, 0, 0], "reward_variance": 0.0, "kl": 0.0})
    found = teachers.teacher_table(summary, curves)
    assert found["policy"].value_counts().to_dict() == {"atlas-t5": 4, "large": 4}
    assert set(found["arm"]) == {"steps"}
    small = found[found["policy"] == "atlas-t5"]
    assert small["gain"].tolist() == pytest.approx([0.2, 0.0, 0.4, 0.0])  # start: 0.5
    assert small["reward_level"].tolist() == pytest.approx([2, 5, 7, 0])
    assert found.loc[found["policy"] == "large", "reward_level"].isna().all()  # no curves
    assert found["group"].unique().tolist() == ["relevance, atlas-t5", "relevance, large"]
    assert found.groupby("cluster")["group"].nunique().tolist() == [2, 2]  # both policies met the same trajectories
    routes = teachers.teacher_table(pd.concat([summary, route]), curves)
    assert routes["arm"].value_counts().to_dict() == {"steps": 8, "label-noise": 4}
    assert routes["cluster"].nunique() == 2  # one seed of reward models is one trajectory, whatever its route


# --- correlations ---

SCALES = {"relevance": 1.0, "factuality": 1000.0, "completeness": 0.001}


def taught(seed=0, trajectories=8):
    """Reward models of three tasks on very different scales: ``probe_variance`` drives the gain, ``probe_margin`` opposes it,
    ``rm_accuracy`` is noise, ``rm_f1`` does not vary."""
    random, parts = np.random.default_rng(seed), []
    for task, scale in SCALES.items():
        gain = random.normal(0, 1, trajectories * 4)
        part = {"task": task, "policy": "t5", "group": f"{task}, t5"}
        part |= {"cluster": np.repeat([f"{task} {n}" for n in range(trajectories)], 4)}
        part |= {"gain": 3 + gain * scale, "probe_variance": 5 / scale + gain / scale, "probe_margin": -gain * scale - 100}
        part |= {"rm_accuracy": random.normal(0.8, 0.1, gain.size), "rm_f1": 0.5}
        part |= {"probe_accuracy": random.normal(0.8, 0.1, gain.size) + gain * 0.05}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def test_correlations_find_what_drives_the_gain_and_not_what_does_not():
    table = taught()
    assert abs(statistics.correlation(table["probe_variance"], table["gain"])) < 0.3  # what scales alone would say
    found = teachers.correlations(table, resamples=200, seed=0).set_index(["task", "measure"])
    assert found.index.get_level_values("task").unique().tolist() == ["all", *TASKS]
    assert "rm_f1" not in found.index.get_level_values("measure")
    for task in ("all", *TASKS):
        drives, opposes = found.loc[(task, "probe_variance")], found.loc[(task, "probe_margin")]
        assert (drives["correlation"], drives["high"]) == (pytest.approx(1), pytest.approx(1))
        assert drives["low"] > 0.99
        assert opposes["high"] < -0.99
    noise = found.loc[("all", "rm_accuracy")]
    assert noise["low"] < 0 < noise["high"]
    assert noise["pairs"] == len(table)
    own = table[table["task"] == "factuality"]
    assert found.loc[("factuality", "rm_accuracy"), "correlation"] == pytest.approx(
        statistics.correlation(own["rm_accuracy"], own["gain"])
    )


def test_a_lead_is_the_difference_of_two_correlations_signs_aside():
    table = taught()
    found = teachers.correlations(table, resamples=50, seed=0).query("task == 'all'").set_index("measure")["correlation"]
    ahead = teachers.lead(table, "probe_margin", "rm_accuracy", resamples=200, seed=0)
    assert ahead.estimate == pytest.approx(abs(found["probe_margin"]) - abs(found["rm_accuracy"]))
    assert 0 < ahead.low < ahead.estimate
    assert teachers.lead(table, "probe_margin", "probe_variance", resamples=50, seed=0).estimate == pytest.approx(0)


def test_a_second_policy_is_no_second_trajectory():
    table = taught()[["task", "group", "cluster", "gain", "rm_accuracy"]]
    twice = pd.concat([table, table.assign(group=table["group"] + " large")], ignore_index=True)
    one, two = (teachers.correlations(t, resamples=100, seed=0).iloc[0] for t in (table, twice))
    assert two[["correlation", "low", "high"]].tolist() == pytest.approx(one[["correlation", "low", "high"]].tolist())
    alone = teachers.correlations(twice.assign(cluster=range(len(twice))), resamples=100, seed=0).iloc[0]
    assert alone["high"] - alone["low"] < 0.9 * (two["high"] - two["low"])


def test_few_collapsed_runs_make_pearson_s_correlation_and_not_spearman_s():
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"task": "relevance", "group": "relevance", "cluster": np.arange(40) % 5, "kl_level": random.normal(size=40)}
    )
    table["gain"] = random.normal(size=40)
    table.loc[:1, ["kl_level", "gain"]] = [20.0, -20.0]
    found = teachers.correlations(table, resamples=9, seed=0).set_index("task").loc["all"]
    assert found["correlation"] < -0.8
    assert abs(found["spearman"]) < 0.4


def test_brevity_is_told_from_accuracy():
    made = nested(flat, rm_seeds=1, accuracies=(0.6, 0.7, 0.8, 0.9), tasks=("factuality", "completeness"))
    made = made.assign(greedy_segments_final=[1.0, 1.2, 2.0, 2.0] * 2, rm_error_share=[0.9, 0.8, 0.5, 0.4] * 2)
    made = made.assign(lm_performance_final=[0.9, 0.8, 0.6, 0.7] * 2, lm_performance_floored=[0.4, 0.5, 0.6, 0.7] * 2)
    (row,) = teachers.brevity(made).to_dict("records")
    assert (row["task"], row["runs"], row["brief"], row["error share"]) == ("factuality", 4, 2, pytest.approx(0.85))
    assert row["brevity-robust"] == pytest.approx(1)
    assert row["as measured"] == pytest.approx(-0.8)
    assert row["R² error share"] == pytest.approx(
        np.corrcoef(made["rm_error_share"][:4], made["lm_performance_final"][:4])[0, 1] ** 2
    )
    older = teachers.brevity(made.drop(columns="greedy_segments_final"))
    assert older["brief"].tolist() == [0]


def test_too_little_for_a_correlation_is_left_out():
    assert teachers.correlations(taught().head(3), resamples=9, seed=0).empty
    assert (
        teachers.correlations(taught().assign(rm_accuracy=np.nan), resamples=9, seed=0).query("measure == 'rm_accuracy'").empty
    )


def razin_world():
    """A :func:`taught` world in which held-out accuracy opposes the gain, and raw variance does entirely."""
    table = taught()
    table["rm_accuracy"] = -table["gain"] / table["task"].map(SCALES) + table["rm_accuracy"]
    return table.assign(probe_variance_raw=table["probe_margin"])


def test_against_razin_has_the_signs_of_a_made_world():
    table = razin_world()
    unmeasured = table.head(4).assign(gain=1e9, probe_variance=np.nan)  # must not count
    alone = table.head(1).assign(group="relevance, other", policy="other")  # nothing to standardise by
    found = teachers.against_razin(pd.concat([table, unmeasured, alone], ignore_index=True), "other", resamples=50, seed=0)
    assert found["Razin et al. 2025"].dropna().to_dict() == teachers.RAZIN
    here = found["here"]
    assert found.loc["reward variance", "raw"] == pytest.approx(-1)
    assert found.loc["accuracy on-policy", "raw"] == here["accuracy on-policy"]
    assert here["reward variance"] == pytest.approx(1)
    assert here["accuracy off-policy"] < -0.9
    assert 0.2 < here["accuracy on-policy"] < 0.8
    assert (found["low"].dropna() <= here.dropna()).all()
    assert (found["high"].dropna() >= here.dropna()).all()
    assert found["pairs"].to_dict() == dict.fromkeys(teachers.RAZIN, len(table)) | {teachers.OWN: 0}


def test_variance_and_accuracy_are_standardised_before_they_are_averaged():
    own = razin_world().query("task == 'relevance'")

    def z(values):
        return (values - values.mean()) / values.std()

    both = z(own["probe_variance"]) + z(z(own["probe_accuracy"]) + z(own["rm_accuracy"]))
    for table in (own, own.assign(probe_variance=own["probe_variance"] * 1000)):  # whatever the units
        found = teachers.against_razin(table, "other", resamples=10, seed=0)["here"]
        assert found["variance and accuracy"] == pytest.approx(statistics.correlation(both, own["gain"]))


def test_held_out_accuracy_is_off_policy_only_for_policies_that_did_not_write_the_feedback():
    table = razin_world()
    found = teachers.against_razin(table, "t5", resamples=10, seed=0)
    assert np.isnan(found.loc["accuracy off-policy", "here"])
    assert found.loc["accuracy off-policy", "pairs"] == 0
    assert found.loc[teachers.OWN, "here"] < -0.9
    large = table.assign(policy="large", group=table["task"] + ", large", rm_accuracy=table["probe_accuracy"])
    found = teachers.against_razin(pd.concat([table, large], ignore_index=True), "t5", resamples=10, seed=0)
    assert found.loc[teachers.OWN, "here"] < -0.9
    assert found.loc["accuracy off-policy", "here"] > 0.2
    assert found["pairs"].tolist() == [2 * len(table), 2 * len(table), len(table), 2 * len(table), len(table)]
    extra = table.assign(arm="label-noise", rm_accuracy=table["probe_accuracy"])  # models that trained the writer alone
    parts = [table.assign(arm="steps"), large.assign(arm="steps"), extra]
    some = teachers.against_razin(pd.concat(parts, ignore_index=True), "t5", resamples=10, seed=0)
    assert some.loc[[teachers.OWN, "accuracy off-policy"], "pairs"].tolist() == [len(table)] * 2
    assert some.loc["accuracy on-policy", "pairs"] == 3 * len(table)


def test_the_writer_is_the_first_policy_that_meets_trained_reward_models():
    made = nested(flat, rm_seeds=1, tasks=("relevance",))
    control = made.assign(arm="dial", route="dial", policy="other")
    assert teachers.writer(pd.concat([control, made, made.assign(policy="large")])) == "atlas-t5"
    assert teachers.writer(control) == "other"
    assert teachers.writer(made.head(0)) == ""


# --- regression ---


def causes(effects, seed=0, trajectories=5):
    """Reward models of three tasks, six a trajectory: gains are sums of measures times their ``effects``, and noise; gains and
    measures have a part common to the trajectory."""
    random = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(3 * trajectories), 6)
    names = ["rm_accuracy", "probe_variance", "probe_variance_raw", "probe_margin", "probe_length_correlation", "best_of_n"]

    def draw():
        return np.sqrt(0.5) * (random.normal(size=3 * trajectories)[clusters] + random.normal(size=clusters.size))

    table = pd.DataFrame({name: draw() for name in names}).reindex(columns=list(teachers.BEFORE))
    task = np.repeat(["a", "b", "c"], 6 * trajectories)
    gain = draw() + sum(effect * table[name] for name, effect in effects.items())
    return table.assign(gain=gain, group=task, cluster=[f"{t} {c}" for t, c in zip(task, clusters, strict=True)])


def test_regressions_find_the_effects_that_were_made():
    table = causes({"rm_accuracy": 2.0, "probe_margin": -1.0}, trajectories=20)
    table["probe_accuracy"] = table["rm_accuracy"] + np.random.default_rng(1).normal(0, 0.1, len(table))  # collinear
    table["rm_f1"] = table["gain"].where(table["group"] != "c")  # not measured for a task
    found = teachers.regressions(table).set_index(["model", "predictor"])
    assert found.groupby("model", sort=False).size().to_dict() == {"accuracy": 1, "variance": 1, "both": 2, "all": 6}
    assert not {"probe_accuracy", "rm_f1"} & set(found.index.get_level_values("predictor"))
    z = teachers.standardised(table, [*teachers.BEFORE, "gain"])
    one = found.loc[("accuracy", "rm_accuracy")]
    assert one["coefficient"] == pytest.approx(statistics.correlation(z["rm_accuracy"], z["gain"]))
    assert one["R²"] == pytest.approx(one["coefficient"] ** 2)
    assert one["adjusted R²"] == pytest.approx(1 - (1 - one["R²"]) * (360 - 3) / (360 - 3 - 1))  # 3 means are fitted too
    assert one[["pairs", "trajectories"]].tolist() == [360, 60]
    spread = table.groupby("group")["gain"].std().mean()
    last = found.loc["all"]
    assert last.loc["rm_accuracy", "coefficient"] == pytest.approx(2 / spread, abs=0.1)
    assert last.loc["probe_margin", "coefficient"] == pytest.approx(-1 / spread, abs=0.1)
    assert (last["low"] < last["coefficient"]).all()
    assert (last["coefficient"] < last["high"]).all()
    assert set(last.index[last["p (Holm)"] < 0.05]) == {"rm_accuracy", "probe_margin"}


def test_clustered_intervals_of_a_regression_hold_their_level(monkeypatch):
    monkeypatch.setattr(teachers.statistics, "holm", list)  # is slow, and not what is asked for here
    missed = {"accuracy": [], "all": []}
    for seed in range(100):
        found = teachers.regressions(causes({}, seed))
        for model, own in missed.items():
            rows = found[found["model"] == model]
            own += list((rows["low"] > 0) | (rows["high"] < 0))
    assert np.mean(missed["accuracy"]) < 0.08
    assert np.mean(missed["all"]) < 0.07


def test_a_regression_takes_no_more_predictors_than_its_trajectories_bear():
    few = causes({}, trajectories=1)
    assert set(teachers.regressions(few)["model"]) == {"accuracy", "variance"}
    assert teachers.regressions(few[few["group"] == "a"]).empty
    assert teachers.regressions(few.assign(probe_variance=np.nan)).empty
    assert set(teachers.regressions(causes({}).assign(probe_variance=1.0))["model"]) == {"accuracy"}
    assert teachers.regressions(few.head(0)).empty


# --- the page ---


def test_the_metrics_page_says_how_little_padding_is_looked_at():
    said = (files.ROOT / "book" / "metrics.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `probe_padding` \|.*", said, flags=re.MULTILINE)
    assert "each of eight prompts" in row
    assert "FEW = 8 " in (files.ROOT / "paradox_utils" / "ppo" / "probe.py").read_text(encoding="utf-8")


FIVE = (0.60, 0.70, 0.78, 0.86, 0.94)


def small(**options):
    return probed(nested(rising, **({"rm_seeds": 3, "accuracies": FIVE} | options)))


def says_nan(names):
    """Whether anything that the page says in words that were computed is a number that is none."""
    return any(
        re.search(r"\bnan\b", text)
        for text in (
            names["before_ppo"],
            names["compared"],
            names["explained"],
            names["saying"],
            names["struck"],
            *names["said"],
        )
    )


@pytest.mark.heavy
def test_the_page_runs_and_finds_what_was_made(tmp_path):
    made = small()
    names = run_page("07", study(made, tmp_path), tmp_path / "out")
    assert len(names["known"]) == 45
    assert "F1 of the error class" not in names["before_ppo"]  # it does not vary
    assert f"{teachers.BEFORE['rm_accuracy']} (+" in names["before_ppo"]
    assert names["writer"] == "atlas-t5"
    assert names["regressed"]["trajectories"].unique().tolist() == [9]
    assert [names["over"][of]["groups"] for of in ("PPO", "best-of-n")] == [9, 0]
    assert names["over"]["PPO"]["peak located"] == names["fitted"]["located"].sum()
    assert not says_nan(names)
    assert (tmp_path / "out" / "result.json").is_file()


@pytest.mark.heavy
def test_the_page_runs_where_runs_failed_and_a_task_has_not_started(tmp_path):
    made = lost(small(), [1], "failed")
    made = lost(made, [7, *made.index[made["task"] == "completeness"]])
    names = run_page("07", study(made, tmp_path))
    assert len(names["known"]) == 28
    assert set(names["fitted"]["task"]) == {"relevance", "factuality"}


def change(folder, table, how):
    how(pd.read_csv(folder / f"{table}.csv", dtype={"id": str})).to_csv(folder / f"{table}.csv", index=False)


FAULTS = {
    "nothing": lambda folder: None,
    "no curves": lambda folder: (folder / "curves.csv").unlink(),
    "no true rewards": lambda folder: change(folder, "curves", lambda t: t.drop(columns=["true_reward_mean", "rm_agreement"])),
    "no best of n": lambda folder: (folder / "best_of_n.csv").unlink(),
    "no probes": lambda folder: change(folder, "summary", lambda t: t.filter(regex="^(?!probe_)")),
    "best of n without rows": lambda folder: (folder / "best_of_n.csv").write_text("id\n"),
    "none trained": lambda folder: change(folder, "summary", lambda t: t.assign(arm="dial")),
    "one trajectory": lambda folder: change(folder, "summary", lambda t: t[t["rm_seed"] == 0]),
}


@pytest.mark.heavy
@pytest.mark.parametrize("fault", FAULTS)
def test_the_page_runs_on_what_there_is_and_says_no_nan(fault, tmp_path):
    FAULTS[fault](study(small(tasks=TASKS[:1]), tmp_path))
    names = run_page("07", tmp_path)
    assert not says_nan(names)


@pytest.mark.heavy
def test_the_page_runs_on_the_recorded_quick_study_which_probed_nothing():
    names = run_page("07", "results/recorded/quick")
    assert not says_nan(names)
    assert names["said"] == []
    assert names["regressed"].empty


@pytest.mark.heavy
def test_the_page_runs_on_two_policies_of_which_one_has_just_begun(tmp_path):
    made = small()
    large = made.assign(policy="large", id="l" + made["id"])
    both = pd.concat([made, large], ignore_index=True)
    begun = lost(both, both.index[(both["policy"] == "large") & ((both["task"] != "relevance") | (both["rm_seed"] > 0))][1:])
    names = run_page("07", study(begun, tmp_path))
    assert not says_nan(names)
    assert set(names["fitted"]["policy"]) == {"atlas-t5", "large"}
    names = run_page("07", study(both, tmp_path))
    assert len(names["known"]) == 90
    assert names["razin"].loc["accuracy off-policy", "here"] > 0
    assert names["regressed"][["pairs", "trajectories"]].drop_duplicates().to_numpy().tolist() == [[90, 9]]
