"""A choice from a config file to its page: what is said, what is left, and that nothing is done twice."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from paradox_utils import config, files
from paradox_utils.choose import __main__ as command
from paradox_utils.choose import report, run
from paradox_utils.choose.decision import Decision
from paradox_utils.data.records import DataError
from paradox_utils.pages import freshness
from paradox_utils.policies.models import ModelError

K, P = 8, 40


@pytest.fixture
def world(tmp_path):
    """Prompts with eight responses each, judged by people; scores of a good, a noisy and a perverse candidate."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(P, K))
    rewards = {
        "good": truth + 0.3 * rng.normal(size=truth.shape),
        "noisy": truth + 3 * rng.normal(size=truth.shape),
        "perverse": -truth,
        "small": 0.01 * truth,
        "flat": 0 * truth,
    }
    keys = [(f"p{i}", str(k)) for i in range(P) for k in range(K)]
    texts = {key: " ".join(["word"] * (1 + int(key[1]))) for key in keys}

    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    asked = [{"prompt_id": p, "response_id": k, "prompt": f"Question {p}?", "response": texts[p, k]} for p, k in keys]
    lines("responses.jsonl", asked)
    lines("judged.jsonl", [row | {"score": float(truth.ravel()[i])} for i, row in enumerate(asked)])
    for name, values in rewards.items():
        scores = [{"prompt_id": p, "response_id": k, "score": float(v)} for (p, k), v in zip(keys, values.ravel(), strict=True)]
        lines(f"{name}.jsonl", scores)

    def choose(*names, **values):
        candidates = {name: str(tmp_path / f"{name}.jsonl") for name in names}
        given = {
            "responses": str(tmp_path / "judged.jsonl"),
            "algorithm": "ppo",
            "kl_coefficient": 0.5,
            "out": str(tmp_path / "out"),
        }
        return config.check(config.Choose, {"candidates": candidates} | given | {"bootstrap": 300} | values)

    choose.folder = tmp_path
    return choose


def test_the_good_one_is_chosen_and_the_table_says_why(world):
    choice = run.choose(world("noisy", "good", "small"))
    assert (choice.decision.kind, choice.decision.names) == ("train", ("good",))
    table = choice.table.set_index("candidate")
    assert list(table.index) == ["good", "noisy", "small"]
    assert (table["low"] <= table["gain"]).all()
    assert table["probability"].sum() == pytest.approx(1)
    assert table["right"].loc["small"] == 1  # as accurate as can be, and of no use against this penalty
    said = report.why(choice)
    assert "too small beside the KL penalty" in said["small"]
    assert "wrong" in said["noisy"]
    assert report.sentence(choice).startswith("Train with good: ")


def test_accuracy_does_not_see_a_reward_that_is_too_small(world):
    p = world("good", "noisy")
    small = {"scores": p.candidates["good"].scores, "scale": 0.01}
    said = report.by_accuracy(run.choose(world(candidates={"good": p.candidates["good"].scores, "tiny": small})))
    assert re.fullmatch(r"No: .* good \(predicted gain \+\d\.\d+\) and tiny \(predicted gain \+0\.\d+\)\.", said)
    assert report.by_accuracy(run.choose(p)).startswith("Yes: good")


def test_size_is_without_effect_within_groups(world):
    table = run.choose(world("noisy", "good", "small", algorithm="grpo")).table.set_index("candidate")
    assert table["gain"].loc["small"] > table["gain"].loc["good"] > table["gain"].loc["noisy"]


def test_what_is_worth_judging_follows_the_recipe(world):
    """The best of n looks at the order alone: a hundredth of the reward weighs the same, so no judgement tells the two apart.
    Against a fixed penalty it does."""
    unjudged = {"responses": str(world.folder / "responses.jsonl")}
    alike = run.choose(world("good", candidates=scaled(world, 0.01), algorithm="best-of-n", n=4, **unjudged))
    assert alike.to_judge == []
    assert "to_judge" not in report.sentence(alike)
    assert len(run.choose(world("good", candidates=scaled(world, 0.01), **unjudged)).to_judge) > 20


def scaled(world, scale):
    """The good candidate, and the same with its score times ``scale``."""
    scores = str(world.folder / "good.jsonl")
    return {"good": scores, "scaled": {"scores": scores, "scale": scale}}


def test_a_scale_is_part_of_the_reward(world):
    p = world("good", "small")
    scaled = {
        "good": {"scores": p.candidates["good"].scores},
        "small": {"scores": p.candidates["small"].scores, "scale": 100.0},
    }
    table, plain = (run.choose(one).table.set_index("candidate") for one in (world(candidates=scaled), p))
    assert table["gain"].loc["small"] > table["gain"].loc["good"]
    assert table["variance"].loc["small"] == pytest.approx(100**2 * plain["variance"].loc["small"])
    assert table["variance_normalised"].loc["small"] == pytest.approx(plain["variance_normalised"].loc["small"])


def test_best_of_n_is_read_at_its_n(world):
    choice = run.choose(world("good", "noisy", algorithm="best-of-n", n=4))
    own = choice.best_of.set_index(["candidate", "n"])["score"]
    table = choice.table.set_index("candidate")
    assert table["score"].loc["good"] == pytest.approx(own["good", 4])
    assert table["kl"].loc["good"] == pytest.approx(np.log(4) - 3 / 4)


def rejudged(world, change):
    """The judged responses again, with scores changed."""
    rows = [json.loads(line) for line in (world.folder / "judged.jsonl").read_text().splitlines()]
    path = world.folder / "rejudged.jsonl"
    path.write_text("".join(json.dumps(row | {"score": float(change(row["score"]))}) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("values", "spread"), [({}, 0.05), ({"algorithm": "grpo"}, 0.05), ({"algorithm": "best-of-n", "n": 4}, 0.0)]
)
def test_luck_of_a_training_is_allowed_for_where_it_is_known(world, values, spread):
    """Of judgements that are shares, and recipes that train; of scores without ends it is said that it is not."""
    choice = run.choose(world("good", "noisy", responses=rejudged(world, lambda x: 1 / (1 + np.exp(-x))), **values))
    assert choice.facts["spread"] == spread
    assert ("trainings, 0.05 each" in report.foot(choice)) == bool(spread)
    assert "does not allow" not in report.sentence(choice)
    unlike = run.choose(world("good", "noisy", **values))
    assert unlike.facts["spread"] == 0
    assert ("not allowed for" in report.foot(unlike)) == bool(spread)
    assert ("does not allow" in report.sentence(unlike)) == bool(spread)
    open_ = replace(unlike, decision=Decision("undecided", ("good", "noisy"), 9))
    assert ("does not allow" in report.sentence(open_)) == bool(spread)


def test_the_same_labels_on_another_scale_are_the_same_choice(world):
    """0 and 1, or 1 and 10: gains and what a training is allowed are nine times as large."""
    shares, tens = (
        run.choose(world("good", "noisy", kl_coefficient=2.0, responses=rejudged(world, change)))
        for change in (lambda x: x > 0, lambda x: 1 + 9 * (x > 0))
    )
    assert (shares.facts["spread"], tens.facts["spread"]) == pytest.approx((0.05, 0.45))
    assert shares.decision == tens.decision
    assert shares.table["probability"].tolist() == pytest.approx(tens.table["probability"].tolist())
    assert (9 * shares.table["gain"]).tolist() == pytest.approx(tens.table["gain"].tolist())


@pytest.mark.parametrize(
    ("judged", "spread"),
    [([1, 2, 5], 0.2), ([-1, 1], 0.1), ([0, 0.5, 1], 0.05), ([1, 2.5, 4], 0), ([1, 50, 100], 0), ([2.5, 7.5], 0.25), ([], 0)],
)
def test_what_a_scale_allows_by_hand(world, judged, spread):
    assert run.spread_of(world("good", "noisy"), np.array([*judged, np.nan])) == pytest.approx(spread)


def test_what_only_a_training_can_tell_is_said_so(world):
    choice = run.choose(world("good", "noisy"))
    alone = replace(choice, decision=Decision("undecided", ("good", "noisy"), by_training=True))
    assert "Only training with each" in report.sentence(alone)


def test_the_answer_names_whom_the_decision_names(world):
    choice = run.choose(world("good", "noisy"))
    for kind in ("none", "no gain"):
        assert "the best, noisy," in report.sentence(replace(choice, decision=Decision(kind, ("noisy",))))


def test_a_penalty_that_holds_all_back_is_told(world):
    """Not only beside a larger reward."""
    choice = run.choose(world("good", "noisy", kl_coefficient=20.0))
    assert choice.table["kl"].max() < 0.05
    assert all("too small beside the KL penalty" in said for said in report.why(choice).values())
    assert "KL penalty holds all" in report.sentence(choice)
    assert "KL penalty holds all" not in report.sentence(run.choose(world("good", "small")))


def test_the_best_of_fewer_than_n_is_said_so(world):
    some, enough = (run.choose(world("good", "noisy", algorithm="best-of-n", n=n)) for n in (16, 8))
    assert set(some.table["limit"]) == {"samples"}
    assert "n = 16 judged responses (the fewest: 8)" in report.sentence(some)
    assert set(enough.table["limit"]) == {"recipe"}
    assert "n = " not in report.sentence(enough)


@pytest.mark.heavy
def test_the_figure_of_the_best_of_n_follows_n(world):
    choice = run.choose(world("good", "noisy", algorithm="best-of-n", n=4))
    assert report.drawn(choice).data.equals(choice.best_of)
    assert report.drawn(run.choose(world("good", "noisy"))).data.columns.tolist() != choice.best_of.columns.tolist()


def test_of_scores_from_files_it_is_said_what_was_not_tried(world):
    choice = run.choose(world("good", "noisy"))
    assert "from a file" in report.why(choice)["good"]
    choice.table["layout"] = "joined"
    assert "without a chat template" in report.why(choice)["good"]


def test_a_limit_takes_scores_and_judgements_of_all_prompts(world):
    """Scores of what does not exist are refused as before."""
    limited = {"limit": 10, "responses": str(world.folder / "responses.jsonl")}
    choice = run.choose(world("good", "noisy", judgement=str(world.folder / "perverse.jsonl"), **limited))
    assert (choice.facts["prompts"], choice.facts["judged_prompts"]) == (10, 10)
    with (world.folder / "good.jsonl").open("a") as file:
        file.write(json.dumps({"prompt_id": "p39", "response_id": "8", "score": 1}) + "\n")
    with pytest.raises(DataError, match="no such response"):
        run.choose(world("good", "noisy", **limited))


def test_what_is_not_there_costs_no_sampling(world, monkeypatch):
    monkeypatch.setattr(run, "apart", lambda *_: pytest.fail("was sampled"))
    absent = str(world.folder / "absent")
    with pytest.raises(ModelError, match="no such directory"):
        run.choose(world("good", "noisy", responses="", candidates={"good": str(world.folder / "good.jsonl"), "b": absent}))
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        run.choose(world("good", "noisy", responses="", held_out=f"{absent}.jsonl"))


def test_copies_are_not_told_apart(world):
    p = world("good", "noisy")
    same = {name: p.candidates["good"].model_dump(include={"scores"}) for name in "ab"}
    choice = run.choose(world(candidates=same))
    assert (choice.decision.kind, choice.decision.more) == ("undecided", None)
    assert report.sentence(choice).startswith("a or b: these judgements cannot tell.")


def test_none_is_better_than_a_perverse_one(world):
    p = world("perverse", "good")
    bad = {"a": p.candidates["perverse"].scores, "b": {"scores": p.candidates["perverse"].scores, "scale": 0.5}}
    choice = run.choose(world(candidates=bad))
    assert choice.decision.kind == "none"
    assert report.sentence(choice).startswith("Train with none of them")


def test_without_judgement_nothing_is_ranked_and_the_responses_worth_judging_are_left(world):
    p = world("noisy", "good", responses=str(world.folder / "responses.jsonl"))
    choice = run.choose(p)
    assert choice.decision.kind == "unjudged"
    assert "gain" not in choice.table
    assert list(choice.table["candidate"]) == ["noisy", "good"]
    assert choice.agreement.loc["noisy", "good"] > 0
    assert {(row["prompt_id"], row["response_id"]) for row in choice.to_judge} == {
        (f"p{i}", str(k)) for i in range(P) for k in range(K)
    }
    assert set(choice.to_judge[0]) == {"prompt_id", "response_id", "prompt", "response", "worth"}
    assert "nothing is ranked" in report.sentence(choice)
    assert "to_judge.jsonl" in report.sentence(choice)
    assert report.foot(choice) == f"{P * K} responses to {P} prompts, none of them judged."
    assert "variance within prompts" in report.ranked(choice)
    assert "noisy and good" in report.page(choice, "mine")


def test_what_was_to_judge_and_is_judged_gives_the_gains_of_the_responses(world):
    whole, unjudged = run.choose(world("noisy", "good")), {"responses": str(world.folder / "responses.jsonl")}
    rows = [json.loads(line) for line in (world.folder / "judged.jsonl").read_text().splitlines()]
    scores = {(row["prompt_id"], row["response_id"]): row["score"] for row in rows}
    judged = world.folder / "now-judged.jsonl"
    asked = run.choose(world("noisy", "good", **unjudged)).to_judge
    lines = (row | {"score": scores[row["prompt_id"], row["response_id"]]} for row in asked)
    judged.write_text("".join(json.dumps(row) + "\n" for row in lines))
    again = run.choose(world("noisy", "good", judgement=str(judged), **unjudged))
    assert again.table["gain"].tolist() == pytest.approx(whole.table["gain"].tolist())
    assert again.to_judge == []


def test_part_of_a_judgement_is_enough(world):
    rows = [json.loads(line) for line in (world.folder / "judged.jsonl").read_text().splitlines()]
    some = [{key: row[key] for key in ("prompt_id", "response_id", "score")} for row in rows if int(row["response_id"]) < 4]
    (world.folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some[: 4 * 20 + 1]))
    p = world("noisy", "good", responses=str(world.folder / "responses.jsonl"), judgement=str(world.folder / "some.jsonl"))
    facts = run.choose(p).facts
    assert (facts["judged_prompts"], facts["judged_responses"], facts["told_nothing"]) == (20, 80, 1)


def test_equal_rewards_block_and_one_alone_is_no_choice(world):
    choice = run.choose(world("good", "noisy", "flat"))
    assert "alike" in choice.table.set_index("candidate")["blocked"].loc["flat"]
    assert "blocked" in report.why(choice)["flat"]
    with pytest.raises(ModelError, match="flat"):
        run.choose(world("good", "flat"))


def test_a_judge_may_be_scores_too(world):
    good = str(world.folder / "good.jsonl")
    choice = run.choose(world("noisy", "small", responses=str(world.folder / "responses.jsonl"), judge=good))
    assert choice.facts["judged_prompts"] == P


def test_a_budget_is_where_the_reading_stops(world):
    table = run.choose(world("good", "noisy", kl_coefficient=0.0, kl_budget=0.5)).table
    assert list(table["kl"]) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert set(table["limit"]) == {"budget"}


def config_file(world, **values):
    path = world.folder / "choose-mine.yaml"
    lines = {"candidates": {"good": str(world.folder / "good.jsonl"), "noisy": str(world.folder / "noisy.jsonl")}}
    lines |= {"responses": str(world.folder / "judged.jsonl"), "out": str(world.folder / "out"), "bootstrap": 300}
    lines |= {"algorithm": "ppo", "kl_coefficient": 0.5} | values
    path.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in lines.items() if value is not None))
    return str(path)


@pytest.mark.heavy
def test_from_a_config_to_a_page_and_the_second_time_nothing(world, capsys, monkeypatch):
    path, out = config_file(world), world.folder / "out"
    assert command.main(["run", path]) == 0
    said = capsys.readouterr().out
    assert "Train with good" in said
    page = (out / "page.html").read_text()
    assert page.index("<h1>Train with good") < page.index("<svg") < page.index("<table")
    record = json.loads((out / "choice.json").read_text())
    assert (record["decision"], record["names"]) == ("train", ["good"])
    assert {file.name for file in out.iterdir()} == set(run.PRODUCTS)
    with monkeypatch.context() as patch:
        patch.setattr(run, "choose", lambda *_: pytest.fail("was chosen again"))
        assert command.main(["run", path]) == 0
    assert "Train with good" in capsys.readouterr().out
    (out / "page.html").unlink()
    assert command.main(["run", path]) == 0
    assert (out / "page.html").is_file()
    assert command.main(["run", config_file(world, judgement="none")]) == 0
    assert not (out / "curves.png").exists()  # of the answer before


@pytest.mark.heavy
def test_other_scores_are_another_question(world, capsys):
    path = config_file(world)
    assert command.main(["run", path]) == 0
    (world.folder / "good.jsonl").write_text((world.folder / "perverse.jsonl").read_text())
    assert command.main(["run", path]) == 0
    assert "Train with noisy" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_choice_that_fails_leaves_no_former_answer(world, capsys):
    path = config_file(world)
    assert command.main(["run", path]) == 0
    (world.folder / "good.jsonl").write_text("{")
    assert command.main(["run", path]) == 2
    error = capsys.readouterr().err
    assert "good.jsonl" in error
    assert error.count("\n") == 1
    assert list((world.folder / "out").iterdir()) == []


@pytest.mark.heavy
def test_what_a_call_reads_is_not_written_over(world, capsys):
    """Responses judged where they were left stay as they are; an answer that would be in a judgement's place is refused."""
    out = world.folder / "out"
    out.mkdir()
    own, judged = out / "responses.jsonl", (world.folder / "judged.jsonl").read_text()
    own.write_text(judged)
    assert command.main(["run", config_file(world, responses=str(own))]) == 0
    assert "Train with good" in capsys.readouterr().out
    assert own.read_text() == judged
    mine = out / "to_judge.jsonl"
    mine.write_text(judged)
    assert command.main(["run", config_file(world, responses=str(own), judgement=str(mine))]) == 2
    assert "copy it" in capsys.readouterr().err
    assert mine.read_text() == judged


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"algorithm": None}, "algorithm is missing"),
        ({"kl_coefficient": None}, "kl_coefficient is missing"),
        ({"algorithm": "best-of-n"}, "n is missing"),
        ({"candidates": None}, "candidates"),
        ({"kl_coeficient": 1.0}, "'kl_coefficient'"),
        ({"responses": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_a_config_must_say_the_recipe_and_no_nonsense(world, values, named, capsys):
    assert command.main(["run", config_file(world, **values)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_held_out_responses_must_be_judged(world):
    with pytest.raises(DataError, match=r"responses.jsonl: held_out"):
        run.choose(world("good", "noisy", held_out=str(world.folder / "responses.jsonl")))


@pytest.mark.parametrize("recipe", [{"kl_coefficient": 0.01}, {"algorithm": "grpo"}, {"algorithm": "best-of-n", "n": 4}])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_prompts_of_one_response_are_none_to_choose_by(recipe, world):
    """Some of them cost nothing; where all are, there is nothing to compare."""
    for name in ("responses", "judged", "good", "noisy"):
        path = world.folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [row for row in rows if row["response_id"] == "0" or (row["response_id"] == "1" and row["prompt_id"] < "p2")]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    some = run.choose(world("good", "noisy", **recipe))
    assert 1 < some.facts["judged_prompts"] < some.facts["prompts"] / 2
    assert some.table["kl"].notna().all()
    assert run.choose(world("good", "noisy", responses=str(world.folder / "responses.jsonl"))).decision.kind == "unjudged"
    lone = world.folder / "lone.jsonl"
    lone.write_text("".join(json.dumps({"prompt": f"{i}?", "response": "a"}) + "\n" for i in range(3)))
    with pytest.raises(DataError, match=r"lone\.jsonl: no prompt has two responses"):
        run.choose(world("good", "noisy", responses=str(lone)))
    lone.write_text(json.dumps({"prompt": "a?", "responses": []}) + "\n")
    with pytest.raises(DataError, match=r"lone\.jsonl: .* has no response"):
        run.choose(world("good", "noisy", responses=str(lone)))


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_the_smallest_budget_gains_nothing(world, algorithm):
    table = run.choose(world("good", "noisy", algorithm=algorithm, kl_coefficient=0.0, kl_budget=1e-12)).table
    assert list(table["gain"]) == pytest.approx([0, 0], abs=1e-4)


def test_a_check_that_failed_is_told(world):
    choice = run.choose(world("good", "noisy"))
    choice.table["unchecked"] = "bfloat16 (RuntimeError: no kernel)"
    assert "no kernel" in report.why(choice)["good"]


def test_a_change_in_the_middle_of_a_large_file_is_another_question(world):
    p, large = world("good", "noisy"), 3 * 2**20
    path = world.folder / "good.jsonl"
    path.write_bytes(path.read_bytes() + b" " * large)
    before = run.stamp(p)
    assert run.stamp(p) == before
    content = bytearray(path.read_bytes())
    content[-large // 2] = ord("\n")
    path.write_bytes(content)
    assert run.stamp(p) != before


def test_weights_that_were_written_again_are_another_question(world):
    folder = world.folder / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(3 * 2**20))
    p = world(candidates={"a": str(folder), "b": str(world.folder / "good.jsonl")})
    before, changed = run.stamp(p), bytearray(3 * 2**20)
    changed[len(changed) // 2] = 1
    (folder / "model.safetensors").write_bytes(changed)
    assert run.stamp(p) != before


def test_responses_alone(world, capsys):
    assert command.main(["sample", config_file(world)]) == 0
    assert len((world.folder / "out" / "responses.jsonl").read_text().splitlines()) == P * K


@pytest.mark.parametrize("path", sorted(files.ROOT.glob("configs/choose-*.yaml")), ids=lambda path: path.stem)
def test_committed_configs_are_possible(path):
    if path.stem != "choose-backtest":
        assert command.load(str(path)).out == f"results/{path.stem}"


def test_scores_made_by_hand_are_chosen_among():
    """The second of the book's recipes; no model is loaded."""
    choice = run.choose(command.load("configs/choose-scores.yaml"))
    assert list(choice.table["candidate"]) in (["api-a", "api-b"], ["api-b", "api-a"])
    assert choice.facts["judged_prompts"] == choice.facts["prompts"] > 2
    assert list(choice.table["kl"]) == pytest.approx([np.log(3) - 2 / 3] * 2)


def test_the_page_starts_from_the_config_that_the_readme_names():
    page = freshness.parameters_of(files.ROOT / "notebooks/16-choose-reward-model.ipynb")
    told = command.load("configs/choose-atlas.yaml")
    assert page.model_dump(exclude={"out", "judgement"}) == told.model_dump(exclude={"out", "judgement"})
    assert (page.judgement, told.judgement) == ("auto", "oracle")  # which is the same
