"""The parameters of the pages that read what runs left."""

from __future__ import annotations

from pydantic import Field

from paradox_utils.config.stages import Count, NonNegative, Positive, Seed, Share, Stage


class Analysis(Stage):
    """Stage ``analysis``: what the runs of a study say together."""

    results: str = Field("results/recorded/quick", description="folder with summary.csv (and curves.csv)")
    bootstrap: Count = Field(2000, description="resamples of an interval")
    seed: Seed = 0


class OneRun(Stage):
    """Stage ``one-run``: how one point of a study's figures was made."""

    results: str = Field("results/recorded/atlas", description="folder of a study, with summary.csv and curves.csv")
    point: str = Field("", description="id of a PPO run; empty: against the most accurate reward model of the first training")


class Text(Stage):
    """Stage ``text``: what policies say before and after PPO."""

    results: str = Field("results/recorded/lottery", description="folder of a study, with responses.csv and curves.csv")
    arms: list[str] = Field([], description="arms of the study to read; empty: all of them")


class Lottery(Stage):
    """Stage ``lottery``: where the most accurate reward model is hacked, and whether accuracy or long training does it."""

    screen: str = Field("results/recorded/lottery-screen", description="folder of the study that looks where")
    results: str = Field("results/recorded/lottery", description="folder of the study on new trainings")


class Regime(Stage):
    """Stage ``regime``: reward models as inaccurate as the paper's, errors on one side, and longer training."""

    results: str = Field("results/recorded/regime", description="folder of the study of trained reward models")
    dials: str = Field("results/recorded/regime-dials", description="folder of the study of crossed dials; empty: none")


class Design(Stage):
    """Stage ``design``: what a pilot says a study can find, how a learning rate was chosen, and what that changed."""

    results: str = Field("results/recorded/atlas-pilot", description="folder of the pilot, with summary.csv and questions.csv")
    rates: str = Field("results/recorded/atlas-learning-rate", description="folder of the runs that chose a learning rate")
    study: str = Field("results/recorded/atlas", description="folder of the Atlas study")
    former: str = Field("results/recorded/atlas-former-rate", description="folder of the runs that the choice replaced")


class People(Stage):
    """Stage ``people``: what people think of what reward models pick, and of what PPO against them teaches."""

    semeval: str = Field("results/recorded/people-semeval", description="folder of a study of semeval; empty: none")
    evouna: str = Field("results/recorded/people-evouna", description="folder of a study of evouna; empty: none")
    evouna_known: str = Field(
        "results/recorded/people-evouna-known",
        description="folder of a study of evouna with known answers in the input; empty: none",
    )
    qa_feedback: str = Field("results/recorded/people-qa-feedback", description="folder of a study of qa-feedback; empty: none")
    semeval_t5: str = Field(
        "results/recorded/semeval-t5", description="folder of PPO on answers that people graded; empty: none"
    )
    marks: str = Field(
        "results/recorded/qa-feedback-dev",
        description="folder of reward models of the paper's tasks on its feedback; empty: none",
    )
    bootstrap: Count = Field(1000, description="resamples of an interval")
    seed: Seed = 0


class Published(Stage):
    """Stage ``published``: what the paper's own figures show, and what chance would show."""

    tables: str = Field("book/published", description="folder of the tables read from the paper's figures")
    permutations: Count = Field(10_000, description="draws from each world without, or with a measured, effect of accuracy")
    seed: Seed = 0


class Cost(Stage):
    """Stage ``cost``: time and price of the paper's whole grid, from measured rates."""

    benchmarks: str = Field("results/recorded/benchmarks.csv", description="table that `make bench` writes")
    episodes: Count = Field(80_000, description="responses that one PPO run learns from")
    reward_models: Count = Field(20, description="reward-model checkpoints for each policy and task")
    seeds: Count = Field(1, description="PPO runs against each checkpoint (the paper: 1)")
    gpus: list[Count] = Field([1, 8, 64], description="GPUs side by side, each with a run of its own")
    price: NonNegative = Field(2.0, description="assumption: price of one GPU for an hour, in dollars")
    assumed_rate: Positive = Field(
        250.0, description="assumption where no GPU was measured: matrix-multiply rate, in 10¹² operations a second"
    )
    assumed_share: Share = Field(0.35, description="assumption where no GPU was measured: share the updates reach")
