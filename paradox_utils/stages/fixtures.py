"""Rebuild ``fixtures/``, the small trained models from which notebooks and tests start."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from paradox_utils import config, threads
from paradox_utils.data.records import write_feedback
from paradox_utils.data.tasks import MARKED
from paradox_utils.files import for_task, resolve, say
from paradox_utils.stages import reward_model, supervised
from paradox_utils.stages.feedback import collect

FEEDBACK_PROMPTS = 1000
REWARD_MODELS = {  # the last checkpoint of each becomes the fixture; those before it have their step in the name
    "relevance": {"checkpoint_steps": [32, 45, 120]},
    "factuality": {"checkpoint_steps": [240], "corruption_steps": 100, "learning_rate": 2e-3},
    "completeness": {"checkpoint_steps": [120]},
}


def build(scratch: Path) -> None:
    """Train everything in ``scratch``, then move it into place."""
    say("supervised policy")
    _, results, _ = supervised.supervised_policy(config.Supervised(), scratch)
    say(str(results))
    _replace(scratch / "model", resolve(config.FIXTURE_POLICY))
    records = collect(config.FeedbackParameters(prompts=FEEDBACK_PROMPTS))
    write_feedback(resolve(config.FIXTURE_FEEDBACK), records)
    for task in MARKED:
        p = config.RewardModel(task=task, **REWARD_MODELS[task])
        results, _ = reward_model.train_reward_model(p, scratch / task)
        say(f"{task} {results['checkpoints'][-1]}")
        target = for_task(config.FIXTURE_REWARD_MODEL, task)
        for step in p.checkpoint_steps:
            name = target if step == p.checkpoint_steps[-1] else f"{target}-{step}"
            _replace(scratch / task / f"checkpoint-{step}", resolve(name))


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("training_args.bin"))


if __name__ == "__main__":
    threads.use({})  # its models are small
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
