"""The benchmark's baseline computes what the engine computes, its table says what was measured, and costs follow from it."""

import dataclasses
import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import choose as versus_ppo
from benchmarks import plain, side_by_side, table, terminal, workload
from benchmarks import study as studies
from benchmarks import t5 as versus_plain
from benchmarks import trl as versus_trl
from benchmarks.table import Row
from paradox_utils import config, files
from paradox_utils.analysis import cost
from paradox_utils.choose.__main__ import load
from paradox_utils.policies.prompts import Responses, encode_prompts
from paradox_utils.ppo import loop, ppo
from tests.conftest import answered
from tests.worlds import NOTEBOOKS

TINY = workload.Size(
    {"vocab_size": 700, "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2},
    {"vocab_size": 700, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    pieces=400, prompts=3, samples=2, prompt_limit=96, response_limit=40, questions=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workload")
    workload.build(folder, TINY, answered(TINY.questions, seed=0))
    return folder


def test_an_update_at_the_papers_size_has_a_value_model_and_a_longformer_of_its_own(tmp_path):
    ours = pytest.importorskip("benchmarks.ours")
    longformer = TINY.reward | {"attention_window": [16], "max_position_embeddings": 514}
    value = TINY.policy | {"d_model": 24, "num_layers": 1}
    workload.build(tmp_path, dataclasses.replace(TINY, reward=longformer, value=value), answered(TINY.questions, seed=0))
    setting = {"task": "factuality", "preset": "as-published", "value_weights": str(tmp_path / "value")}
    loop = ours.Loop(str(tmp_path), "cpu", "float32", **setting)
    assert loop.engine.actors.value.body.config.d_model == 24
    assert (loop.engine.p.top_k, loop.engine.p.task) == (20, "factuality")
    lap = loop.rollout(0)
    assert lap["episodes"] == 6
    assert all(lap[phase] > 0 for phase in versus_plain.PHASES)
    assert workload.PAPER.value["d_model"] == workload.PAPER.reward["hidden_size"] == 768


@pytest.fixture
def sides(folder):
    """The plain loop and the engine with the same weights, value heads included; learning rates that move something."""
    ours = pytest.importorskip("benchmarks.ours")
    size, records = workload.load(folder)
    p = workload.parameters(folder, size, "cpu", "float32", pass_tokens=200).model_copy(update={"learning_rate": 1e-3})
    engine, baseline = ours.load(folder, p), plain.load(folder, p)
    baseline.value_head.load_state_dict(engine.actors.value.head.state_dict())
    with torch.no_grad():  # a policy that has left its reference: the KL penalty counts
        for mine, theirs in zip(engine.actors.policy.parameters(), baseline.policy.parameters(), strict=True):
            noise = 0.05 * torch.randn_like(mine)
            mine.add_(noise), theirs.add_(noise)
    return engine, baseline, workload.batch(records, size, 0), size


def imposed(baseline, chosen, size):
    lengths = torch.tensor([5, 40, 17, 1, 23, 2])
    torch.manual_seed(0)
    return plain.sample(baseline, [record.question for record in chosen], lengths), lengths


def as_responses(engine, chosen, batch, size):
    """The plain loop's batch as the engine sees it: no padding beyond the longest."""
    actors, longest = engine.actors, int(batch.mask.sum(1).max())
    prompts = encode_prompts(actors.policy, actors.tokenizer, [r.question for r in chosen], size.prompt_limit)
    ids, mask = batch.ids[:, :longest], batch.mask[:, :longest]
    rows = [row[: int(n)] for row, n in zip(ids, mask.sum(1), strict=True)]
    return Responses(prompts, ids, mask, actors.tokenizer.batch_decode(rows, skip_special_tokens=True), size.samples)


def padded(values, width):
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


@pytest.mark.heavy
def test_the_plain_loop_imposes_lengths(sides):
    _, baseline, chosen, size = sides
    batch, lengths = imposed(baseline, chosen, size)
    end = baseline.tokenizer.eos_token_id
    assert batch.ids.shape == (size.prompts * size.samples, size.response_limit)
    assert batch.prompt_ids.shape == (size.prompts * size.samples, size.prompt_limit)
    assert torch.equal(batch.mask.sum(1), lengths)
    for row, length in zip(batch.ids.tolist(), lengths.tolist(), strict=True):
        assert row.index(end) == length - 1
        assert set(row[length:]) <= {baseline.tokenizer.pad_token_id}


@pytest.mark.heavy
def test_both_sides_compute_the_same(sides):
    """Advantages, losses and gradients of the same responses under the same rewards agree to 1e-5."""
    engine, baseline, chosen, size = sides
    batch, _ = imposed(baseline, chosen, size)
    responses = as_responses(engine, chosen, batch, size)
    rewards = torch.randn(batch.ids.shape, generator=torch.Generator().manual_seed(1)) * batch.mask
    width = responses.ids.shape[1]
    plain.score(baseline, batch, rewards)
    rollout = loop.score(engine.p, engine.actors, responses, lambda _: rewards[:, :width])
    advantages, returns = ppo.estimates(engine.p, rollout)
    for mine, theirs in (
        (rollout.log_p, batch.log_p * batch.mask),
        (rollout.values, batch.values),
        (advantages, batch.advantages),
        (returns * rollout.mask, batch.returns * batch.mask),
    ):
        torch.testing.assert_close(padded(mine, size.response_limit), theirs, atol=1e-5, rtol=1e-5)
    for epochs in (1, 3):  # later epochs have ratios other than 1
        p = engine.p.model_copy(update={"epochs": epochs})
        baseline.p = p
        mine = ppo.optimise(p, engine.actors, ppo.optimizer_of(p, engine.actors), rollout, 1)
        theirs = plain.update(baseline, plain.optimizer_of(baseline), batch)
        assert mine["policy_loss"] == pytest.approx(theirs["policy_loss"], abs=1e-5)
        assert mine["value_loss"] == pytest.approx(theirs["value_loss"], abs=1e-5, rel=1e-5)
        gradients = zip(
            [*engine.actors.policy.parameters(), *engine.actors.value.parameters()], baseline.parameters(), strict=True
        )
        for mine, theirs in gradients:
            if theirs.grad is not None or mine.grad is not None:
                torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.heavy
def test_both_sides_reward_the_same(sides):
    """Responses that are spelt as their text is tokenised: then the plain loop's re-tokenised positions are the true ones."""
    engine, baseline, chosen, size = sides
    texts = [text for record in chosen for text in record.responses[: size.samples]]
    batch, _ = imposed(baseline, chosen, size)
    end, pad = baseline.tokenizer.eos_token_id, baseline.tokenizer.pad_token_id
    rows = [[*ids[: size.response_limit - 1], end] for ids in baseline.tokenizer(texts, add_special_tokens=False).input_ids]
    batch.ids = torch.tensor([row + [pad] * (size.response_limit - len(row)) for row in rows])
    batch.mask = torch.tensor([[1] * len(row) + [0] * (size.response_limit - len(row)) for row in rows])
    mine = engine.reward(as_responses(engine, chosen, batch, size))
    theirs = plain.segment_rewards(baseline, batch)
    assert (theirs != 0).sum() >= len(rows)
    torch.testing.assert_close(padded(mine, size.response_limit), theirs)


@pytest.mark.heavy
def test_the_engine_is_a_side(folder):
    ours = pytest.importorskip("benchmarks.ours")
    loop = ours.Loop(str(folder), "cpu", "float32")
    laps = loop.rollout(0)
    assert laps["episodes"] == TINY.prompts * TINY.samples
    assert all(laps[phase] > 0 for phase in versus_plain.PHASES)
    size, records = workload.load(folder)
    lengths = workload.lengths(loop.engine.actors.tokenizer, workload.batch(records, size, 0), size)
    assert loop.last.responses.mask.sum(1).tolist() == lengths
    assert loop.update_work() > 1e6


# --- workload -----------------------------------------------------------------------------------------------------------------


def test_the_tokenizer_decodes_exactly_and_fills_the_vocabulary(folder):
    size, records = workload.load(folder)
    tokenizer = plain.PreTrainedTokenizerFast.from_pretrained(folder / "policy")
    texts = [*(r.question.prompt for r in records), "Ünïcode, and\n\nbreaks  twice."]
    assert tokenizer.batch_decode(tokenizer(texts, add_special_tokens=False).input_ids) == texts
    assert len(tokenizer) == size.policy["vocab_size"]


def test_rollouts_take_questions_in_turn(folder):
    size, records = workload.load(folder)
    assert [r.question.id for i in (0, 1) for r in workload.batch(records, size, i)] == [r.question.id for r in records]
    assert workload.batch(records, size, 2) == workload.batch(records, size, 0)


# --- the table ----------------------------------------------------------------------------------------------------------------


def test_rows_say_whether_targets_are_met():
    assert table.faster("t5", "updates", 2.0, 11.0, "s", 5.0).met() == "met"
    assert table.faster("t5", "updates", 2.0, 9.0, "s", 5.0).met() == "missed"
    assert table.more("t5", "episodes per second", 6.0, 1.0, "1/s", 5.0).ratio == 6.0
    assert Row("atlas", "whole run", 19.0, "s", target=20.0, of="value").met() == "met"
    assert Row("atlas", "whole run", 21.0, "s", target=20.0, of="value").met() == "missed"
    assert Row("t5", "prompts cut", 0).met() == ""


def test_a_part_replaces_its_own_rows_alone(tmp_path):
    path = tmp_path / "benchmarks.csv"
    first = table.tabulate([Row("t5", "a", 1.0), Row("atlas", "b", 2.0)], "cpu", 2, "float32", "full")
    table.record(first, path)
    table.record(table.tabulate([Row("t5", "c", 3.0)], "cpu", 2, "float32", "full"), path)
    table.record(table.tabulate([Row("t5", "c", 4.0)], "cpu", 2, "float32", "full").assign(device="cuda"), path)
    table.record(table.tabulate([Row("t5", "c", 5.0)], "cpu", 2, "bfloat16", "full"), path)
    kept = pd.read_csv(path)
    assert kept[["part", "device", "precision", "value"]].values.tolist() == [
        ["atlas", "cpu", "float32", 2.0],
        ["t5", "cpu", "bfloat16", 5.0],
        ["t5", "cpu", "float32", 3.0],
        ["t5", "cuda", "float32", 4.0],
    ]
    assert {"cpu", "cores", "threads", "gpu", "torch", "commit", "date", "target", "met"} <= set(kept.columns)


def test_medians_by_hand():
    def lap(*seconds, episodes=10):
        return dict(zip(versus_plain.PHASES, seconds, strict=True)) | {
            "episodes": episodes, "prompt_tokens": 700.0, "response_tokens": 90.0, "cut": 1,
        }  # fmt: skip

    rows = versus_plain.rows([lap(2, 3, 15)], [lap(1, 0.5, 2.5)], {"plain": 4 * 2**20, "ours": 2**20}, "cpu")
    by_name = {row.measure: row for row in rows}
    assert by_name["episodes per second"].value == pytest.approx(2.5)
    assert by_name["episodes per second"].baseline == pytest.approx(0.5)
    assert by_name["episodes per second"].ratio == pytest.approx(5.0)
    assert by_name["updates, a rollout"].ratio == pytest.approx(6.0)
    assert by_name["generation, a rollout"].met() == "missed"  # twice as fast, where three times are wanted
    assert by_name["peak memory"].ratio == pytest.approx(4.0)
    assert json.loads(json.dumps(by_name["prompts cut"].value)) == 1


def test_the_spread_of_turns_by_hand():
    """In one rollout the plain loop takes 20 and the engine 4 seconds, in another 18 and 6."""

    def lap(seconds):
        return dict.fromkeys(versus_plain.PHASES, seconds / 3) | {
            "episodes": 10, "prompt_tokens": 700.0, "response_tokens": 90.0, "cut": 0,
        }  # fmt: skip

    rows = versus_plain.rows([lap(20), lap(18)], [lap(4), lap(6)], {"plain": 1, "ours": 1}, "cpu")
    assert [row.value for row in rows if row.measure.endswith(" ratio of a turn")] == pytest.approx([3, 5])


def test_studies_are_told_by_round():
    """Rounds of 60 against 30 and 60 against 40 seconds; two workers have 200 seconds for runs of which 150 are PPO's."""
    rows = {row.measure: row for row in studies.rows([{1: 60.0, 2: 30.0}, {1: 60.0, 2: 40.0}], 12, 100.0, [75.0, 75.0])}
    assert (rows["12 runs, 2 workers against 1"].ratio, rows["12 runs, 2 workers against 1"].met()) == (1.75, "missed")
    assert rows["12 runs, 2 workers against 1, highest ratio of a turn"].value == 2.0
    assert rows["a run, 1 worker"].value == 5.0
    assert rows["the same, share of the workers' time that is not PPO"].value == 0.25


def test_runs_side_by_side_are_compared_with_one_alone():
    rows = side_by_side.rows({1: 4.0, 16: 40.0})
    assert [row.ratio for row in rows] == [1.0, 10.0, None]
    assert rows[-1].value == 16


def test_welch_by_hand():
    """Means 2 and 4, variances 1 and 4 of three each: t = -2 / sqrt(5/3), 2.94 degrees of freedom."""
    low, high, chance = versus_trl.welch(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert (low + high) / 2 == pytest.approx(-2.0)
    assert (high - low) / 2 == pytest.approx(3.2188 * (5 / 3) ** 0.5, rel=1e-3)  # the t distribution's 97.5 % point
    assert chance == pytest.approx(0.2205, abs=2e-3)
    assert np.isnan(versus_trl.welch(np.array([1.0]), np.array([1.0])))[0]


@pytest.mark.parametrize(("spread", "state"), [(0.01, "met"), (3.0, "missed")])
def test_agreement_needs_a_narrow_interval(spread, state):
    """Equal means are not enough: what the interval allows must be less than a quarter of TRL's value."""

    def run(offset):
        return [{"reward": 2.0 + offset, "kl": 4.0 + offset, "seconds": 1.0} for _ in range(6)]

    runs = [run(spread * sign) for sign in (-1, 0, 1)]
    rows = versus_trl.rows(runs, runs, (1.0, 1.0), 8, "cpu")
    assert [row.met() for row in rows if "at most" in row.measure] == [state] * 4
    assert {row.measure: row.value for row in rows}["kl, last third of the updates"] == pytest.approx(4.0)


def test_responses_are_scored_by_their_words():
    size = terminal.Size(words=10, scale=4.0)
    assert terminal.score(torch.tensor([[1, 2, 9, 8], [0, 4, 3, 5]]), size).tolist() == [2.0, 3.0]


def test_the_engine_runs_against_trl(tmp_path):
    """Full-length responses, prompts of different lengths, one reward at the end; KL 0 before the first update."""
    trl_ours = pytest.importorskip("benchmarks.trl_ours")
    terminal.build(tmp_path, terminal.SIZES["quick"])
    rows = trl_ours.Loop(str(tmp_path), "cpu", "float32").run(0)
    assert len(rows) == terminal.SIZES["quick"].updates
    assert abs(rows[0]["kl"]) < 1e-5 < abs(rows[-1]["kl"])
    assert 0 < rows[0]["reward"] < terminal.SIZES["quick"].scale


def test_a_choice_is_set_beside_ppo_round_by_round():
    """Ratios 30 and 15: the median lies above the target, the lowest below it."""

    def lap(ppo):
        return {"whole": 4.0, "choice": 2.0, "scoring": 1.5, "ppo": ppo, "ppo updates": 80.0}

    found = {row.measure: row for row in versus_ppo.rows([lap(120.0), lap(60.0)], 4, 80)}
    first = found["4 candidates, a choice against a PPO run on each"]
    assert (first.value, first.baseline, first.ratio, first.met()) == (4.0, 90.0, 22.5, "met")
    assert [found[f"the same, {which} ratio of a turn"].value for which in ("lowest", "highest")] == [15.0, 30.0]
    assert found["the same, without start-up and pages"].ratio == 40.0
    assert found["sampling, judging and deciding"].value == 0.5


@pytest.mark.heavy
def test_ppo_is_paid_by_each_candidate_as_the_choice_reads_it():
    runs = versus_ppo.trainings(load(str(versus_ppo.CONFIG)), {"updates": 2})
    late, weak = config.PPO(**runs["late"]), config.PPO(**runs["late/20"])
    assert late.reward_model == weak.reward_model
    assert weak.reward_size == pytest.approx(late.reward_size / 20)
    assert (late.updates, late.kl_coefficient, late.reward_size) == (2, 0.05, 0.3)


@pytest.mark.heavy
def test_a_choice_is_timed():
    lap = versus_ppo.timed(versus_ppo.TINY)
    assert lap["whole"] > lap["choice"] > lap["scoring"] > 0


# --- the cost of the paper's grid ---------------------------------------------------------------------------------------------

SMALL = cost.Shape(layers=1, decoder_layers=1, width=2, attention=3, feed_forward=5, words=7)


def test_operations_of_a_forward_pass_by_hand():
    """S 4, T 2, K 2: encoder 4 (48 + 40) + 4·16·3 = 544, keys 4·4·6 = 96, decoder 2 (72 + 40) + 4·2·6·3 = 368, head 56."""
    assert cost.forward(SMALL, 4, 2, samples=2) == (544 + 96) / 2 + 368 + 56
    assert cost.forward(SMALL, 4, 2, samples=2, head=False) == (544 + 96) / 2 + 368
    assert cost.forward(SMALL, 4, 2, samples=1) == 544 + 96 + 368 + 56


def test_the_formula_is_what_is_counted(folder):
    """On a rollout without padding, torch's counter and the formula agree."""
    ours = pytest.importorskip("benchmarks.ours")
    mine = ours.Loop(str(folder), "cpu", "float32")
    engine, size = mine.engine, mine.size
    engine.p = engine.p.model_copy(update={"pass_tokens": 0})
    chosen, _ = mine.chosen(0)
    batch = ours.sample(engine, chosen[:1], torch.full((size.samples,), 9), seed=0)
    mine.last = loop.score(engine.p, engine.actors, batch, engine.reward)
    shape = cost.Shape(2, 2, 16, 16, 32, size.policy["vocab_size"])
    prompt, epochs = batch.prompts.ids.shape[1], cost.EPOCHS
    forward = cost.forward(shape, prompt, 9, size.samples) + cost.forward(shape, prompt, 9, size.samples, head=False)
    assert epochs == engine.p.epochs
    assert mine.update_work() / (3 * epochs * size.samples * forward) == pytest.approx(1.0, abs=0.05)


def measured(device="cpu", **changes):
    """A table whose updates run at 2 of 4 · 10¹² operations a second, with half as much time again beside them."""
    values = {
        "rate": 4000.0, "share": 2000.0, "work": 0.0, "generation": 1.0, "scoring": 0.5, "updates": 3.0, "prompt": 700.0,
        "response": 90.0, "episodes": 32.0,
    } | changes  # fmt: skip
    values["work"] = values["work"] or 32 * cost.updates(*[cost.POLICIES["T5-small"]] * 2, 700, 90) * 1.25 / 1e9
    about = {"part": "matmul", "device": device, "precision": cost.PRECISION[device]}
    rows = [about | {"measure": cost.MEASURES[k], "value": v} for k, v in values.items()]
    return pd.DataFrame(rows).assign(cpu="a CPU", gpu="a GPU", date="2026-01-01")


def test_a_gpu_that_was_measured_needs_no_assumption():
    rates = cost.rates(measured("cuda"), config.Cost())
    assert (rates.operations, rates.besides, rates.device) == (2e12, 0.5, "cuda")
    assert rates.overhead == pytest.approx(1.25)


def test_without_a_gpu_its_rate_is_assumed():
    p = config.Cost(assumed_rate=100.0, assumed_share=0.5)
    rates = cost.rates(measured("cpu"), p)
    assert (rates.operations, rates.device) == (50e12, "cpu")


def test_hours_by_hand():
    rates = cost.Rates(operations=1e12, besides=0.5, overhead=2.0, prompt=700, response=90, device="cuda")
    work = cost.updates(cost.POLICIES["T5-large"], cost.VALUE, 700, 90)
    assert cost.run_hours(cost.POLICIES["T5-large"], rates, 3600) == pytest.approx(2.0 * work * 1.5 / 1e12)
    assert [cost.makespan([1.0, 1.0, 3.0], machines) for machines in (1, 2, 8)] == [5, 3, 3]


@pytest.mark.heavy
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_page_says_what_is_assumed_and_adds_up(device, tmp_path):
    measured(device).assign(target="", met="", baseline=1, unit="s", ratio=1, threads=2).to_csv(tmp_path / "table.csv")
    names: dict = {}
    for cell in nbformat.read(NOTEBOOKS / "09-cost.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= {"benchmarks": str(tmp_path / "table.csv")} if cell.id == "parameters" else {}
    grid, bill = names["grid"], names["bill"]
    assert bill["GPU hours"].tolist() == pytest.approx([grid["GPU hours"].sum()] * 3)
    assert bill["dollars"].tolist() == pytest.approx([2 * grid["GPU hours"].sum()] * 3)
    assert bill["hours"].iloc[0] == pytest.approx(grid["GPU hours"].sum())
    assert ("No GPU" in names["basis"]) == ("assumed" in names["finding"]) == (device == "cpu")


def test_the_grid_is_the_papers():
    p = config.Cost(seeds=3)
    grid = cost.grid(cost.rates(measured(), p), p)
    assert len(grid) == 9
    assert grid["runs"].tolist() == [60] * 9
    hours = grid.groupby("policy")["hours a run"].first()
    assert hours["T5-small"] < hours["T5-base"] < hours["T5-large"]


def test_a_table_without_the_rates_is_refused():
    with pytest.raises(files.FileError, match="has no 'matrix-multiply rate'"):
        cost.rates(measured().assign(part="t5"), config.Cost())
    with pytest.raises(files.FileError, match="make bench"):
        cost.load_benchmarks(config.Cost(benchmarks="results/recorded/nothing.csv"))
