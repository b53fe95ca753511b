"""The parameters of the choice among reward models: candidates, responses, judgement, recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paradox_utils.config.stages import (
    FIXTURE_POLICY,
    GRADED,
    WITH_ORACLE,
    Count,
    CountOrZero,
    NonNegative,
    Parameters,
    Positive,
    Seed,
    Source,
    TaskName,
    Texts,
    Tokens,
)

TABLES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz")  # how the name of a file of scores ends
FIXTURES: dict[str, Any] = {  # three checkpoints of one training, and the last at a twentieth of its reward
    "early": "fixtures/atlas/reward-relevance-32",
    "middle": "fixtures/atlas/reward-relevance-45",
    "late": "fixtures/atlas/reward-relevance",
    "late/20": {"model": "fixtures/atlas/reward-relevance", "scale": 0.05},
}


class Candidate(Parameters):
    """A reward model to choose among: ``model``, or a file of its ``scores``; plain text is either, by its ending."""

    model: str = Field("", description="hub id, or directory of a reward model")
    scores: str = Field("", description="in its place a file of its scores (JSONL or CSV: prompt_id, response_id, score)")
    output: str = Field("", description="of several outputs, the label of the one that is the score")
    labels: dict[str, float] = Field(
        {}, description="token classifier: what each of its labels is worth; a response is paid the sum over its tokens"
    )
    layout: Literal["auto", "chat", "pair", "joined"] = Field(
        "auto",
        description="prompt and response by its chat template, as two texts, or as one; auto: the template where it has one, "
        "else two texts",
    )
    scale: Positive = Field(1.0, description="the reward is the score times this")
    trust_remote_code: bool = Field(False, description="run code that its repository brings")

    @model_validator(mode="before")
    @classmethod
    def _named_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"scores" if value.endswith(TABLES) else "model": value}
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Candidate:
        if bool(self.model) == bool(self.scores):
            given = "both a model and scores" if self.model else "neither a model nor scores"
            raise ValueError(f"has {given}; name one of them")
        if self.scores and (extra := sorted(self.model_fields_set - {"model", "scores", "scale"})):
            raise ValueError(f"{extra[0]}: has no effect on a file of scores; leave it out")
        return self

    @property
    def says(self) -> tuple[str, str, str]:
        """Whose word, and which, a score of it is."""
        return self.model, self.scores, self.output


class Choose(Source):
    """Stage ``choose``: which of several reward models to train a policy with, before any training."""

    # the candidates
    candidates: dict[str, Candidate] = Field(
        FIXTURES,
        validate_default=True,
        description="two or more reward models by name: a hub id, directory or file of scores, or the fields of a candidate",
    )
    max_length: Tokens = Field(2048, description="tokens of a candidate's input; longer ones are cut and counted")
    batch: Texts = Field(16, description="responses a pass of a candidate")
    # the responses
    prompts: str = Field("", description="own prompts: a JSONL file, or a hub id of a data set (its split after a colon)")
    responses: str = Field("", description="prompts with their responses, in the same forms; nothing is sampled")
    limit: CountOrZero = Field(0, description="use so many of the prompts; 0: all (of the source: its validation questions)")
    policy: str = Field(FIXTURE_POLICY, description="directory or hub id of the policy that is to be trained")
    samples: Texts = Field(32, description="responses that it gives to each prompt")
    temperature: Positive = Field(0.7, description="of its samples, as in the training to come")
    top_k: CountOrZero = Field(0, description="sample from the k likeliest tokens; 0: from all")
    prompt_limit: Tokens = Field(2048, description="tokens of a prompt; longer ones are cut and counted")
    # the judgement
    judgement: str = Field(
        "auto",
        description="none, oracle (atlas), a column of `responses`, or a file of scores; auto: the oracle of a source that has "
        "one, or the preferences, label or score that `responses` holds",
    )
    judge: Candidate | None = Field(None, description="a model, or its scores, whose judgement counts as the truth")
    task: TaskName = Field("relevance", description="what the oracle judges, and the reward models of this project")
    held_out: str = Field("", description="judged responses, not of the policy, on which accuracy is measured as well")
    # the recipe
    algorithm: Literal["ppo", "grpo", "best-of-n"] = Field(
        "ppo",
        description="ppo: the reward as it is, less a KL penalty (PPO, RLOO); grpo: normalised within the prompt, as in TRL by "
        "default; best-of-n: the best of n samples",
    )
    kl_coefficient: NonNegative = Field(0.05, description="of the KL penalty of whole responses; 0 needs a kl_budget")
    kl_budget: Positive | None = Field(None, description="training stops at this KL from the policy, in nats; unset: never")
    reward_scaling: Literal["none", "standardise"] = Field(
        "none", description="standardise: less the mean, by the deviation of the rewards of all responses"
    )
    n: Count = Field(16, description="best-of-n: responses to choose from")
    # the answer
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = Field(2000, description="resamples of the prompts")
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> Choose:
        if len(self.candidates) < 2:
            raise ValueError(f"candidates = {list(self.candidates)}: a choice needs two or more; add one")
        if self.prompts and self.responses:
            raise ValueError(f"prompts = {self.prompts!r}: has no effect beside responses; leave one out")
        if self.judge and self.judgement != "auto":
            raise ValueError(f"judgement = {self.judgement!r}: has no effect beside a judge; leave one out")
        for name, one in self.candidates.items():
            if (self.judge and one.says == self.judge.says) or (one.scores and one.scores == self.judgement):
                raise ValueError(
                    f"candidates = {name!r}: is its own judge, by which it must win; name another judge or judgement"
                )
        if self.judgement == "oracle" and not self.has_oracle:
            raise ValueError(
                f"judgement = 'oracle': it judges questions of source = 'atlas' alone, and no task that people grade "
                f"({', '.join(GRADED)}); leave it out, or name a file"
            )
        if not self.responses and self.judgement not in ("auto", "none", "oracle") and not self.judgement.endswith(TABLES):
            raise ValueError(
                f"judgement = {self.judgement!r}: a column needs `responses` to stand in; name a file of scores "
                f"({', '.join(TABLES[::2])}), or none"
            )
        if self.algorithm == "best-of-n" and self.kl_budget is not None:
            raise ValueError(f"kl_budget = {self.kl_budget}: has no effect on best-of-n, whose KL n sets; leave it out")
        if self.algorithm != "best-of-n" and not self.kl_coefficient and self.kl_budget is None:
            raise ValueError("kl_coefficient = 0.0: nothing holds the policy back; give a kl_budget, or a coefficient above 0")
        if self.algorithm == "best-of-n" and not self.responses and self.n > self.samples:
            raise ValueError(f"n = {self.n}: more than samples = {self.samples}; lower it, or raise those")
        if self.algorithm != "ppo" and self.reward_scaling != "none":
            why = "which scales within prompts" if self.algorithm == "grpo" else "which looks at the order alone"
            raise ValueError(f"reward_scaling = 'standardise': has no effect on {self.algorithm}, {why}; leave it out")
        if not self.responses and self.samples < 2:
            raise ValueError(f"samples = {self.samples}: responses to a prompt are compared; use 2 or more")
        return self

    @property
    def has_oracle(self) -> bool:
        """Whether an oracle judges any response."""
        return self.source in WITH_ORACLE and self.task not in GRADED and not (self.prompts or self.responses)
