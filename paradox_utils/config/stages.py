"""Every parameter of the stages that make runs: its name, default, unit and bounds live here only.

One flat pydantic model a stage, so that ``papermill -p name value`` reaches everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from paradox_utils.config.words import LARGEST

Count = Annotated[int, Field(ge=1, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Questions = Annotated[int, Field(ge=1, le=100_000)]  # 25 times what people have judged, and seconds to make
Tokens = Annotated[int, Field(ge=1, le=16_384)]  # of a text: four times a Longformer's
Texts = Annotated[int, Field(ge=1, le=4_096)]  # in memory at once: forty times the paper's largest batch
LARGEST_ROLLOUT = 8_192  # responses: 64 times the paper's
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # NumPy takes no larger one, and seeds derived from it stay below torch's 2⁶³
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
TaskName = Literal["relevance", "factuality", "completeness", "preference"]

# What the checks below must know of the registries in `data`, which this module cannot import (a test compares them).
PAIRWISE = ("completeness", "preference")  # tasks with one score a response
WITH_ORACLE = ("atlas",)  # sources whose oracle judges any text
GRADED = ("preference",)  # tasks learnt from graded responses
SETS = {"semeval": "fixtures/semeval", "evouna": "fixtures/evouna"}  # sources of nothing else, and a made-up sample of each

# A small supervised policy, feedback on its responses, and reward models, committed so that every notebook runs alone.
FIXTURE_POLICY = "fixtures/atlas/policy"
FIXTURE_FEEDBACK = "fixtures/atlas/feedback.jsonl.gz"
FIXTURE_REWARD_MODEL = "fixtures/atlas/reward-{task}"


class Parameters(BaseModel):
    """Base of all stages: strict types, no unknown names, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Stage(Parameters):
    """What every stage has: a folder to leave its results in."""

    out: str = Field("", description="folder to fill with results and models; empty: nothing is stored")


class Source(Stage):
    """Where questions come from, and the limits every stage shares."""

    source: Literal["atlas", "qa-feedback", "semeval", "evouna"] = Field(
        "atlas", description="the generated world, Wu et al.'s human feedback, or answers that people graded"
    )
    data: str = Field(
        "tasksource/QA-Feedback",
        description="qa-feedback: hub id, or directory of the original JSON files; semeval, evouna: directory of the official "
        "files, unset: a made-up sample",
    )
    world_seed: Seed = Field(0, description="atlas: seed of the world and its questions")
    train_questions: Annotated[int, Field(ge=0, le=100_000)] = Field(
        4000, description="questions to train on; 0: all (qa-feedback)"
    )
    validation_questions: Questions = Field(100, description="questions that select checkpoints")
    test_questions: Questions = Field(200, description="questions that results are reported on")
    heldout_share: Share = Field(0.2, description="share of feedback questions that measure a reward model's accuracy")
    evaluator_share: Share = Field(0.0, description="share of feedback questions that train the evaluator and nothing else")
    fold: CountOrZero = Field(
        0, description="semeval, evouna, one file of qa-feedback: moves the held-out part on by so many times its share"
    )
    official_split: bool = Field(
        False, description="semeval: the official test questions are held out, and all others learnt from"
    )
    sentence_splitter: Literal["auto", "punctuation", "pysbd", "spacy"] = Field(
        "auto", description="auto: punctuation (atlas); spaCy's en_core_web_sm where installed, else pysbd (qa-feedback)"
    )
    passage_sentences: CountOrZero = Field(
        0, description="keep only this many passage sentences, the most similar to the question; 0: all"
    )
    prompt_limit: Tokens = Field(64, description="tokens of a prompt; longer ones are cut at the end and counted")
    response_limit: Tokens = Field(64, description="tokens of a response, end-of-sequence included")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")

    @model_validator(mode="before")
    @classmethod
    def _fill_data(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and isinstance(source := values.get("source"), str) and source in SETS:
            return {"data": SETS[source]} | dict(values)
        return values

    @model_validator(mode="after")
    def _every_part_has_questions(self) -> Source:
        if self.train_questions == 0 and self.source in WITH_ORACLE:
            raise ValueError(
                f"train_questions = 0: stands for all there are, and source = {self.source!r} has no end; ask for 1 or more"
            )
        if not 0 < self.heldout_share < 1 - self.evaluator_share:
            raise ValueError(
                f"heldout_share = {self.heldout_share}, evaluator_share = {self.evaluator_share}: the first must be above 0, "
                "and the two must leave feedback to train on"
            )
        if self.official_split and self.source != "semeval":
            raise ValueError("official_split = True: only source = 'semeval' has one; leave it out")
        return self


class Supervised(Source):
    """Stage ``supervised``: the policy learns to answer from demonstrations."""

    policy: str = Field("atlas-t5", description="an Atlas preset, a hub id, or a directory of pretrained weights")
    steps: CountOrZero = Field(1200, description="optimizer steps; 0: the policy as it comes")
    batch_size: Texts = Field(32, description="demonstrations a step")
    learning_rate: Positive = Field(5e-3, description="peak of AdamW's linear schedule")
    warmup_share: Share = Field(0.05, description="share of steps with a rising learning rate")
    resume_every: CountOrZero = Field(500, description="steps between the states that a killed run goes on from; 0: none")
    seed: Seed = 0


class FeedbackParameters(Source):
    """Stage ``feedback``: responses, judged."""

    policy: str = Field(FIXTURE_POLICY, description="atlas: directory of the supervised policy whose responses are judged")
    prompts: Questions = Field(2000, description="atlas: questions to collect feedback on")
    responses_per_prompt: Literal[4] = Field(4, description="responses compared for each question")
    temperature: Positive = Field(0.7, description="atlas: sampling temperature of the responses")
    annotator_noise: Share = Field(0.1, description="atlas: probability that the annotator gets a label or a comparison wrong")
    seed: Seed = 0

    @model_validator(mode="after")
    def _has_marks(self) -> FeedbackParameters:
        if self.source in SETS:
            raise ValueError(f"source = {self.source!r}: its responses are graded, and nothing is marked in them; name another")
        return self


def _task_fits_source(task: str, source: str) -> None:
    if (task in GRADED) != (source in SETS):
        fitting = ", ".join(map(repr, GRADED if source in SETS else SETS))
        way_out = f"set task to {fitting}" if source in SETS else f"set source to one of {fitting}"
        raise ValueError(f"task = {task!r}: source = {source!r} has nothing to learn it from; {way_out}")


class RewardModel(Source):
    """Stage ``reward_model``: one reward model, with a checkpoint at each of ``checkpoint_steps``."""

    task: TaskName = "relevance"
    backbone: str = Field("atlas-bert", description="an Atlas preset, a hub id, or a directory of an encoder")
    feedback: str = Field(FIXTURE_FEEDBACK, description="atlas: feedback.jsonl of the feedback stage; qa-feedback reads `data`")
    split: Literal["train", "evaluator"] = Field("train", description="which feedback questions it learns from")
    feedback_limit: CountOrZero = Field(0, description="feedback questions to learn from; 0: all of the split")
    label_noise: Share = Field(0.0, description="probability that a training label is flipped on top of the annotators' noise")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="share of the target that the other label gets: the task's other class, or the other order of a pair"
    )
    checkpoint_steps: list[CountOrZero] = Field([0, 40, 80, 160, 320], description="optimizer steps that leave a checkpoint")
    schedule_steps: CountOrZero = Field(0, description="steps of the learning-rate schedule; 0: up to the last checkpoint")
    known_answer: bool = Field(
        False, description="evouna: the input names the known answer, with which a response need only be compared"
    )
    corruption_steps: CountOrZero = Field(
        0, description="atlas: the first so many steps teach to read passages, on corrupted answers"
    )
    batch_size: Texts = 32
    micro_batch: CountOrZero = Field(0, description="examples a forward pass; 0: the whole batch")
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.001
    warmup_share: Share = 0.1
    centre_sample: Count = Field(500, description="completeness: training responses whose scores centre the rewards")
    max_length: Tokens = Field(2048, description="tokens of a reward model's input; longer ones are cut and counted")
    global_attention: bool = Field(True, description="Longformer: segment marks attend globally (the paper's models: false)")
    passage_bars: bool = Field(
        True, description="passages are parted by ' | ' in training as they are in PPO (the paper's training inputs: false)"
    )
    resume_every: CountOrZero = Field(200, description="steps between the states that a killed run goes on from; 0: none")
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> RewardModel:
        _task_fits_source(self.task, self.source)
        if self.known_answer and self.source != "evouna":
            raise ValueError("known_answer = True: only source = 'evouna' has them; leave it out")
        steps = self.checkpoint_steps
        if not steps or any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ValueError(f"checkpoint_steps = {steps}: must be a rising list of at least one step")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch = {self.micro_batch}: must divide batch_size = {self.batch_size}")
        if self.corruption_steps >= max(self.checkpoint_steps[-1], 1):
            raise ValueError(
                f"corruption_steps = {self.corruption_steps}: must leave steps on feedback before the last checkpoint"
            )
        if self.corruption_steps and self.source not in WITH_ORACLE:
            raise ValueError(f"corruption_steps = {self.corruption_steps}: only source = 'atlas' has an oracle to label them")
        return self


# The published estimator choices (Chen et al.'s released code), where they differ from the defaults.
AS_PUBLISHED: dict[str, Any] = {
    "whitening": "root-of-standard-deviation",
    "whiten_padding": True,
    "log_probabilities": "full-softmax",
    "top_k": 20,
    "dropout_in_updates": 0.1,
    "whiten_rewards": True,
    "value_clip": 0.2,
    "value_head": "gelu",
    "schedule": "step",
    # Its 1e-5 meets the sum of a rollout's 8 training batches: 8 times the token mean whose gradient is taken here. A factor of
    # the gradient changes nothing in Adam but ε, and gradients are not clipped.
    "adam_epsilon": 1e-5 / 8,
    "max_gradient_norm": None,
}


class PPO(Source):
    """Stage ``ppo``: one PPO training of one policy against one reward."""

    task: TaskName = "relevance"
    policy: str = Field(FIXTURE_POLICY, description="directory of the supervised policy, or a hub id")
    preset: Literal["default", "as-published"] = Field("default", description="as-published: the released code's estimators")
    optimiser: Literal["ppo", "rloo", "best-of-n"] = Field(
        "ppo",
        description="rloo: a response is one action, its baseline the mean of the prompt's others, without effect of value_*, "
        "whiten*, discount and gae_lambda; best-of-n trains nothing: it chooses among sampled responses by the reward",
    )
    # the reward
    reward: Literal["model", "dial", "constant", "length"] = Field(
        "model", description="a trained reward model, a control of set accuracy, the same for every response, or its length"
    )
    reward_model: str = Field(
        FIXTURE_REWARD_MODEL, description="directory or hub id of a checkpoint; {task} stands for the task"
    )
    other_reward_models: list[str] = Field([], description="further checkpoints for the same task, named as `reward_model` is")
    others: Literal["watch", "minimum"] = Field(
        "watch",
        description="watch: other reward models pay nothing, how far all disagree is recorded; minimum: a token is paid the "
        "least that any of them all gives",
    )
    feedback: str = Field(FIXTURE_FEEDBACK, description="atlas: feedback that measures who rewards, and centres exact scores")
    dial_accuracy: Share = Field(1.0, description="dial: probability that a segment's exact label is kept")
    dial_kind: Literal["prejudice", "noise"] = Field(
        "prejudice", description="flips keyed by the segment's text alone, or by prompt and segment"
    )
    dial_bias: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.0, description="dial: on which side its errors lie; 1: only good segments are called errors, -1: only errors good"
    )
    dial_seed: Seed = Field(0, description="dial: key of the flips; another key is another reward model")
    scale_matched: bool = Field(False, description="dial: undo the expected shrinkage of the reward (by 2 accuracy − 1)")
    reward_size: Positive | None = Field(None, description="reward of a good segment; unset: 0.3, 0.5, 0.3 by task")
    reward_form: Literal["arg-max", "probability"] = "arg-max"
    reward_pooling: Literal["sum", "mean"] = Field("sum", description="segment rewards as they are, or divided by their number")
    normalise_reward: bool | None = Field(
        None, description="divide by the deviation of the judge's scores on feedback; unset: completeness only, as published"
    )
    # the rollout
    updates: CountOrZero = Field(40, description="rollouts, each followed by `epochs` optimizer steps")
    prompts_per_update: Texts = 16
    samples_per_prompt: Texts = 4
    temperature: Positive = 0.7
    top_k: CountOrZero = Field(0, description="sample from the k likeliest tokens; 0: from all")
    log_probabilities: Literal["sampling", "full-softmax"] = Field(
        "sampling", description="of the distribution that is sampled (temperature), or of the untempered softmax"
    )
    # the objective
    kl_coefficient: NonNegative = Field(0.05, description="per-token penalty on log π − log π_ref")
    discount: Share = 1.0
    gae_lambda: Share = 0.95
    whitening: Literal["standard-deviation", "root-of-standard-deviation", "none"] = "standard-deviation"
    whiten_padding: bool = Field(False, description="let padding take part in whitening and keep what leaks into it")
    whiten_rewards: bool = Field(False, description="whiten the penalised rewards too, without shifting their mean")
    clip: Positive = 0.2
    value_clip: Positive | None = Field(None, description="unset: the value loss is not clipped (the paper: 0.2)")
    value_weight: NonNegative = Field(1.0, description="weight of the value loss, which carries its own ½")
    value_model: Literal["separate", "shared"] = Field("separate", description="a network of its own, or a head on the policy")
    value_weights: str = Field("", description="weights a separate value model starts from; empty: the policy's")
    value_head: Literal["relu", "gelu"] = Field("relu", description="what bends the hidden layer of the value model's head")
    # the optimizer
    epochs: Count = Field(4, description="optimizer steps on one rollout")
    pass_tokens: CountOrZero = Field(
        0, description="prompt and response tokens of a forward pass, padding included; 0: the whole rollout at once"
    )
    learning_rate: Positive = 5e-4
    adam_epsilon: Positive = 1e-5
    warmup_updates: CountOrZero = 0
    schedule: Literal["update", "step"] = Field(
        "update", description="the learning rate moves at each update, or at each optimizer step, of which the first has 0"
    )
    decay: bool = Field(True, description="linear decay of the learning rate to 0 over the updates")
    max_gradient_norm: Positive | None = Field(1.0, description="unset: gradients are not clipped (the paper)")
    dropout_in_updates: Share = Field(0.0, description="dropout probability in the updates; never in the rollout")
    precision: Literal["float32", "bfloat16"] = "float32"
    # evaluation and stopping
    evaluator: str = Field("oracle", description="oracle (atlas), or directory or hub id of a reward model of another family")
    other_evaluators: list[str] = Field(
        [],
        description="further reward models for the same task, of one score a response: what counts is then the mean of the "
        "evaluator's score and theirs, each in deviations from the mean of its own on what it learnt from",
    )
    evaluate_every: Count = Field(10, description="updates between evaluations on validation questions")
    probe_prompts: CountOrZero = Field(
        0, description="validation questions on whose sampled responses the reward is measured before any update; 0: none"
    )
    probe_samples: Texts = Field(16, description="responses to each question that a probe, or best-of-n, samples")
    stress_records: CountOrZero = Field(
        0,
        description="atlas: held-out responses on whose altered forms the reward model is measured before any update; 0: none",
    )
    kl_stop: Positive | None = Field(None, description="a rollout whose summed KL exceeds this counts towards stopping")
    kl_stop_count: Count = Field(5, description="such rollouts, in all, that stop the run")
    rm_micro_batch: Texts = Field(64, description="responses a reward-model pass")
    evaluation_batch: Texts = Field(100, description="prompts a greedy pass")
    processes: Count = Field(1, description="processes that share the run, each with its part of a rollout's prompts")
    resume_every: CountOrZero = Field(20, description="updates between the states that a killed run goes on from; 0: none")
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset") == "as-published":
            return AS_PUBLISHED | dict(values)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> PPO:
        _task_fits_source(self.task, self.source)
        if self.reward != "model" and self.source not in WITH_ORACLE:
            raise ValueError(f"reward = {self.reward!r}: a control needs the labels and the feedback of source = 'atlas'")
        self._several_reward_models()
        self._several_evaluators()
        if self.normalise_reward and self.task not in PAIRWISE and (self.source not in WITH_ORACLE or self.reward != "model"):
            raise ValueError(
                "normalise_reward = True: on segments it needs reward = 'model' and the feedback of source = 'atlas'"
            )
        if self.stress_records and (self.source not in WITH_ORACLE or self.reward != "model"):
            raise ValueError(
                f"stress_records = {self.stress_records}: needs a reward model and an oracle of any text; ask for 0, or set "
                "reward = 'model' and source = 'atlas'"
            )
        if self.evaluator == "oracle" and self.source not in WITH_ORACLE:
            raise ValueError("evaluator = 'oracle': only source = 'atlas' has one; name a reward model's directory")
        if self.reward == "dial" and self.task in PAIRWISE and self.dial_accuracy <= 0.5:
            raise ValueError(f"dial_accuracy = {self.dial_accuracy}: noise on a score orders more than 0.5 of the pairs right")
        if self.value_weights and self.value_model == "shared":
            raise ValueError(
                "value_weights: has no effect on a shared value model; leave it out, or set value_model = 'separate'"
            )
        if self.scale_matched and self.dial_accuracy <= 0.5:
            raise ValueError(f"dial_accuracy = {self.dial_accuracy}: a scale-matched dial needs more than 0.5")
        if self.top_k and self.log_probabilities == "sampling":
            raise ValueError(
                f"top_k = {self.top_k}: outside the top k the sampling log-probability is −∞; use top_k = 0, "
                "or log_probabilities = 'full-softmax'"
            )
        if self.processes > self.prompts_per_update:
            raise ValueError(
                f"processes = {self.processes}: more than prompts_per_update = {self.prompts_per_update}; each needs a prompt"
            )
        if self.optimiser == "rloo" and self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt = {self.samples_per_prompt}: optimiser = 'rloo' compares a response with the prompt's "
                "others; use 2 or more, or optimiser = 'ppo'"
            )
        if self.optimiser != "best-of-n" and 0 < self.train_questions < self.prompts_per_update:
            raise ValueError(
                f"prompts_per_update = {self.prompts_per_update}: more than train_questions = {self.train_questions}; lower "
                "it, or raise those"
            )
        if (rollout := self.prompts_per_update * self.samples_per_prompt) > LARGEST_ROLLOUT:
            raise ValueError(
                f"samples_per_prompt = {self.samples_per_prompt}: with prompts_per_update = {self.prompts_per_update} that "
                f"makes {rollout} responses a rollout; lower one, as {LARGEST_ROLLOUT} are the most"
            )
        if self.whiten_padding and self.whitening == "none":
            raise ValueError("whiten_padding = True: needs a whitening")
        return self

    def _several_reward_models(self) -> None:
        names = [self.reward_model, *self.other_reward_models]
        if self.others != "watch" and not self.other_reward_models:
            raise ValueError(f"others = {self.others!r}: has no effect without other_reward_models; name some, or leave it out")
        if self.other_reward_models and self.reward != "model":
            raise ValueError(f"other_reward_models: has no effect on reward = {self.reward!r}; leave it out")
        if self.other_reward_models and self.others == "watch" and self.optimiser == "best-of-n":
            raise ValueError("others = 'watch': has no effect on best-of-n, which has no rollouts; set others = 'minimum'")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"other_reward_models: names {twice!r}, which judges already; name each reward model once")

    def _several_evaluators(self) -> None:
        names = [self.evaluator, *self.other_evaluators]
        if self.other_evaluators and (self.evaluator == "oracle" or self.task not in PAIRWISE):
            raise ValueError(
                f"other_evaluators: task = {self.task!r} with evaluator = {self.evaluator!r} has no scores to average; leave "
                f"it out, or name reward models for one of {', '.join(map(repr, PAIRWISE))}"
            )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"other_evaluators: names {twice!r}, which evaluates already; name each reward model once")
