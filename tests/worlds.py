"""Studies whose truth is known, made in a moment: summaries, the folders they are read from, and the pages that read them."""

from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd

from paradox_utils.analysis import tables, verdict
from paradox_utils.data import tasks

ACCURACIES = (0.60, 0.68, 0.74, 0.80, 0.86, 0.92)
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
UPDATES = 12
TASKS = tasks.MARKED  # by place


def flat(accuracy):
    return 0.8


def rising(accuracy):
    return 0.4 + 1.4 * (accuracy - 0.6)


def inverted_u(accuracy):  # best at 0.78, 0.2 worse at 0.92
    return 0.9 - 0.2 * ((accuracy - 0.78) / 0.14) ** 2


def world(curve, rm_seeds=4, ppo_seeds=3, accuracies=ACCURACIES, tasks=TASKS, noise=0.01, seed=0):
    """A summary of a world in which LM performance is ``curve(accuracy)`` plus noise of the reward model and of the PPO run."""
    random, rows = np.random.default_rng(seed), []
    for task in tasks:
        for rm_seed in range(rm_seeds):
            for index, wanted in enumerate(accuracies):
                accuracy = wanted + random.uniform(-0.01, 0.01)
                level = curve(accuracy) + random.normal(0, noise)
                for ppo_seed in range(ppo_seeds):
                    final = level + random.normal(0, noise)
                    logged = final + abs(random.normal(0, noise))
                    row = dict.fromkeys(tables.NUMBERS, 0.5) | dict.fromkeys(tables.LABELS, "")
                    row |= {"study": "made", "id": f"run-{len(rows):04d}", "task": task, "policy": "atlas-t5", "route": "steps"}
                    row |= {
                        "rm_step": 40 * index,
                        "rm_seed": rm_seed,
                        "ppo_seed": ppo_seed,
                        "rm_majority": 0.65,
                        "status": "ok",
                        "ended": True,
                    }
                    row |= {"rm_accuracy": accuracy, "rm_accuracy_noisy": accuracy - 0.05}
                    rows.append(row | {"lm_performance_final": final, "lm_performance_best_logged": logged})
    return pd.DataFrame(rows).assign(arm="steps", lm_performance_validation=np.nan)


def nested(curve, **options):
    """A :func:`world` in which every trajectory has one PPO seed, its own."""
    return world(curve, ppo_seeds=1, **options).assign(ppo_seed=lambda t: t["rm_seed"])


def named(summary, arm, route="dial"):
    """The runs of a world under the name of another arm, told apart by their settings, with ids of their own."""
    setting = summary["rm_step"].map("level={}".format)
    ids = arm + "-" + summary["id"].astype(str)
    return summary.assign(arm=arm, route=route, setting=setting, rm_step=np.nan, id=ids)


def probed(summary, seed=0):
    """A world with what newer studies measure before PPO and after it."""
    random = np.random.default_rng(seed)
    noise = {name: random.normal(0.5, 0.1, len(summary)) for name in ("probe_variance", "probe_variance_raw", "probe_margin")}
    return summary.assign(
        **noise,
        probe_accuracy=summary["rm_accuracy"] + random.normal(0, 0.02, len(summary)),
        probe_length_correlation=0.0,
        probe_padding=1e-6,
        greedy_length_start=36.0,
        greedy_length_final=31.0,
    )


def lost(summary, rows, status="blocked"):
    """The summary with runs (index labels) that have not finished: nothing was measured of them."""
    labels = {*tables.LABELS, "arm", "rm_step", "rm_seed", "ppo_seed"}
    table = summary.copy()
    table.loc[rows, [name for name in table if name not in labels]] = np.nan
    table.loc[rows, ["status", "ended"]] = [status, status != "blocked"]
    return table


def curves_of(summary, seed=0):
    """A curve of :data:`UPDATES` updates for every run that finished: rewards rise, the true one less, KL grows."""
    random, t = np.random.default_rng(seed), np.arange(UPDATES + 1)
    parts = [pd.DataFrame(columns=["id", "update", "kl", "lm_performance"])]
    for row in summary[summary["status"] == "ok"].drop_duplicates("id").itertuples():
        gained = (row.lm_performance_final - 0.5) * t / UPDATES
        score = np.where(t % 4 == 0, 0.5 + gained, np.nan)
        values = {"kl": 0.3 * t + np.abs(random.normal(0, 0.02, t.size)) * (t > 0), "reward_variance": 0.1}
        values |= {"reward_mean": 0.5 + 0.1 * t, "true_reward_mean": 0.5 + gained + random.normal(0, 0.01, t.size)}
        values |= {"rm_agreement": 0.9 - 0.01 * t, "lm_performance": score, "test_lm_performance": score}
        parts.append(pd.DataFrame({"id": row.id, "update": t, **values}))
    return pd.concat(parts[1:] or parts)


def best_of_n_of(summary):
    rows = [
        {"id": row.id, "n": n, "kl": np.log(n) - (n - 1) / n, "lm_performance": 0.5 + 0.1 * np.log2(n) * row.rm_accuracy}
        for row in summary[summary["status"] == "ok"].drop_duplicates("id").itertuples()
        for n in (1, 2, 4)
    ]
    return pd.DataFrame(rows, columns=["id", "n", "kl", "lm_performance"])


def questions_of(summary, questions=8, seed=0):
    random, rows = np.random.default_rng(seed), []
    for row in summary[summary["status"] == "ok"].drop_duplicates("id").itertuples():
        good = random.binomial(10, np.clip(row.lm_performance_final, 0, 1), questions)
        rows.append({"id": row.id, "when": "final", "good": " ".join(map(str, good)), "segments": " ".join(["10"] * questions)})
    return pd.DataFrame(rows, columns=["id", "when", "good", "segments"])


def checkpoints_of(summary):
    rows = summary[(summary["route"] == "steps") & (summary["status"] == "ok")]
    table = rows.drop_duplicates(["task", "rm_seed", "rm_step"]).rename(columns={"rm_step": "step", "rm_majority": "majority"})
    table = table.assign(accuracy=table["rm_accuracy"], accuracy_noisy=table["rm_accuracy_noisy"], segments=100)
    kept = ["id", "task", "route", "setting", "rm_seed", "step", "accuracy", "accuracy_noisy", "majority", "segments"]
    return table[kept].assign(id="rm-" + table["task"] + table["rm_seed"].astype(str))


def decide(summary, reading="as measured"):
    return verdict.verdict(summary, reading, resamples=30)


def written(summary, folder):
    """The folder, with the summary alone in it."""
    folder.mkdir(exist_ok=True)
    summary.to_csv(folder / "summary.csv", index=False)
    return folder


def study(summary, folder):
    """The folder, with all tables that a study writes."""
    made = {"curves": curves_of, "best_of_n": best_of_n_of, "questions": questions_of, "reward_models": checkpoints_of}
    for name, make in made.items():
        make(summary).to_csv(written(summary, folder) / f"{name}.csv", index=False)
    return folder


def run_page(name, folder, out="", **others):
    """Every code cell of a page, run on a study's folder, with ``others`` of its parameters; its names. A relative ``folder``
    is the project's; None: the page's own."""
    (path,) = NOTEBOOKS.glob(f"{name}*.ipynb")
    names: dict = {}
    with mpl.rc_context({"backend": "agg"}):
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        quicker = {"bootstrap": 30} if any("config.Analysis" in cell.source for cell in cells) else {}
        for cell in cells:
            exec(cell.source, names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"out": str(out)} | ({} if folder is None else {"results": str(folder)}) | quicker | others
    return names


def offsets(axis):
    """All points that scatters drew in an axis, in order."""
    parts = [np.asarray(c.get_offsets()) for c in axis.collections if len(c.get_offsets())]
    return np.concatenate(parts) if parts else np.empty((0, 2))
