"""The stage ``reward_model``, from its parameters to its results: what notebook 03 calls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data
from paradox_utils.files import resolve, write_table
from paradox_utils.rewards import picks, training

transformers_logging.disable_progress_bar()


def train_reward_model(p: config.RewardModel, folder: Path) -> tuple[dict, pd.DataFrame]:
    """Stage ``reward_model``: results (metrics of every checkpoint) and losses.

    Where people graded responses, ``sets.csv`` in the folder describes them and ``picks.csv`` has what each checkpoint picks
    among those that it does not learn from.
    """
    judged, sets = data.load_feedback(p, resolve(p.feedback)), data.load_sets(p)
    unseen = {part: sets[part] for part in ("heldout", "evaluator") if part != p.split and sets.get(part)}
    metrics, losses, truncated = training.train(p, judged, folder, unseen)
    if sets:
        write_table(folder / "sets.csv", picks.described(sets))
        parts = [pd.read_csv(folder / f"checkpoint-{step}" / "picks.csv") for step in p.checkpoint_steps]
        write_table(folder / "picks.csv", pd.concat(parts))
    return {"checkpoints": metrics, "truncated_inputs": truncated}, losses
