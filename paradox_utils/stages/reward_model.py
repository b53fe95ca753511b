"""The stage ``reward_model``, from its parameters to its results: what notebook 03 calls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers.utils import logging as transformers_logging

from paradox_utils import config, data
from paradox_utils.files import resolve
from paradox_utils.rewards import training

transformers_logging.disable_progress_bar()


def train_reward_model(p: config.RewardModel, folder: Path) -> tuple[dict, pd.DataFrame]:
    """Stage ``reward_model``: results (metrics of every checkpoint) and losses."""
    judged = data.load_feedback(p, resolve(p.feedback))
    metrics, losses, truncated = training.train(p, judged, folder)
    return {"checkpoints": metrics, "truncated_inputs": truncated}, losses
