"""Reward models of all kinds score by one door; those that cannot, or whose scores change, are told why."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from paradox_utils import config, data
from paradox_utils.choose import candidates
from paradox_utils.choose.candidates import Scored, score
from paradox_utils.choose.inputs import Asked
from paradox_utils.choose.scorers import Item, load_scorer
from paradox_utils.data.records import DataError
from paradox_utils.policies.models import ModelError
from paradox_utils.rewards.judges import evaluator_of
from tests.choose.conftest import TEMPLATE, parameters
from tests.policies.altered import POINTER, altered, cut, remove, renamed, setting, write


def scored(folder, asked, **values):
    """By a candidate of these fields, in this process."""
    fields = {name: values.pop(name) for name in list(values) if name in config.Candidate.model_fields}
    return candidates._by_model(config.Candidate(model=str(folder), **fields), parameters(**values), asked, [])


def alone(folder, texts):
    """Each input's score, by transformers and nothing else; ``texts``: one or two an input."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [model(**tokenizer(*text, return_tensors="pt")).logits[0] for text in texts]


def test_a_sequence_classifier_reads_two_texts(plain, asked):
    found = scored(plain, asked)
    by_hand = alone(plain, [(one.question.prompt, text) for one in asked for text in one.responses.values()])
    assert found.blocked == ""
    assert list(found.scores.values()) == pytest.approx([float(one[0]) for one in by_hand], abs=1e-5)
    assert found.checks["batch"] < 1e-5
    assert found.checks["cut"] == 0
    assert set(found.altered) == {"repeated", "long", "unfinished"}


def test_responses_that_are_not_the_policys_are_scored_apart(plain, asked):
    candidate = config.Candidate(model=str(plain))
    found = candidates._by_model(candidate, parameters(), asked[:3], asked[3:])
    assert {key[0] for key in found.scores} == {"q0", "q1", "q2"}
    assert {key[0] for key in found.held_out} == {"q3", "q4", "q5"}


def test_a_decoder_without_a_padding_token_scores_as_alone(llama, asked):
    found = scored(llama, asked)
    by_hand = alone(llama, [(f"{one.question.prompt} {text}",) for one in asked for text in one.responses.values()])
    assert found.blocked == ""
    assert list(found.scores.values()) == pytest.approx([float(one[0]) for one in by_hand], abs=1e-5)


def test_messages_are_read_by_the_chat_template(llama, asked):
    setting("tokenizer_config.json", chat_template=TEMPLATE)(llama)
    said = [{"role": "user", "content": "what is zodor?"}]
    item = Item(said, asked[0].question, "zodor isle.")
    got = load_scorer(config.Candidate(model=str(llama)), parameters())([item], 1)
    assert got == pytest.approx(float(alone(llama, [("what is zodor? zodor isle. ",)])[0][0]), abs=1e-5)


@pytest.mark.heavy
def test_one_of_several_outputs_is_named(plain, asked, tmp_path):
    labels = {"id2label": {0: "helpful", 1: "harmless"}, "label2id": {"helpful": 0, "harmless": 1}, "num_labels": 2}
    model = AutoModelForSequenceClassification.from_pretrained(plain, ignore_mismatched_sizes=True, **labels)
    model.save_pretrained(tmp_path / "two")
    AutoTokenizer.from_pretrained(plain).save_pretrained(tmp_path / "two")
    found = scored(tmp_path / "two", asked, output="harmless")
    by_hand = alone(tmp_path / "two", [(one.question.prompt, text) for one in asked for text in one.responses.values()])
    assert list(found.scores.values()) == pytest.approx([float(one[1]) for one in by_hand], abs=1e-5)
    assert all(name in scored(tmp_path / "two", asked).blocked for name in ("helpful", "harmless", "output"))
    assert "'honest'" in scored(tmp_path / "two", asked, output="honest").blocked


@pytest.mark.heavy
def test_a_token_classifier_pays_the_sum_of_what_its_labels_are_worth(tagger, asked):
    """As PPO is paid: a response's return is the sum of its rewards. Each of its tokens labelled bad costs one."""
    found, p = scored(tagger, asked, labels={"bad": -1.0}), parameters()
    scorer = load_scorer(config.Candidate(model=str(tagger), labels={"bad": -1.0}), p)
    one, text = asked[0], asked[0].responses["0"]
    encoded = scorer.run.tokenizer(one.question.prompt, text, return_tensors="pt")
    with torch.inference_mode():
        chosen = scorer.network(**encoded).logits[0].argmax(-1)
    of_text = [place for place, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    assert found.scores["q0", "0"] == -int((chosen[of_text] == 1).sum()) != 0
    assert found.labels
    assert not scored(tagger, asked, labels={"good": 1.0}).labels  # no score is below 0
    assert "good, bad" in scored(tagger, asked).blocked
    assert "'awful'" in scored(tagger, asked, labels={"awful": 1.0}).blocked


SAYS_MORE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] CLEAN}} isle . end\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}[assistant] {% endif %}"


@pytest.mark.parametrize("clean", ["", "| trim "])
@pytest.mark.parametrize("asks", ["", ASKS])
def test_a_chat_templates_own_words_are_not_paid(clean, asks, tagger, asked):
    """Neither those before the response nor those behind it, which here repeat its last one."""
    setting("tokenizer_config.json", chat_template=SAYS_MORE.replace("CLEAN", clean) + asks)(tagger)
    reader = load_scorer(config.Candidate(model=str(tagger), labels={"bad": -1.0}), parameters()).run
    encoded = reader._encode(Item("what is zodor isle?", asked[0].question, " zodor isle."))
    ids = encoded.fields["input_ids"]
    paid = [token for token, is_paid in zip(ids, encoded.judged, strict=True) if is_paid]
    assert paid == reader.tokenizer("zodor isle.", add_special_tokens=False).input_ids
    assert encoded.judged.index(True) > 4
    assert not any(encoded.judged[-3:])


@pytest.mark.parametrize(
    ("layout", "text"),
    [("joined", "zodor isle."), ("joined", " zodor isle."), ("pair", "zodor isle."), ("pair", ""), ("joined", "")],
)
def test_all_of_a_response_is_paid_and_nothing_else(layout, text, tagger, asked):
    reader = load_scorer(config.Candidate(model=str(tagger), labels={"bad": -1.0}, layout=layout), parameters()).run
    encoded = reader._encode(Item("what is zodor?", asked[0].question, text))
    paid = [token for token, judged in zip(encoded.fields["input_ids"], encoded.judged, strict=True) if judged]
    assert paid == reader.tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.heavy
def test_how_prompt_and_response_are_read_is_kept(plain, llama, asked):
    assert scored(plain, asked).layout == "pair"
    assert scored(llama, asked).layout == "joined"
    assert scored(llama, asked, layout="pair").layout == "pair"
    assert scored(config.FIXTURE_REWARD_MODEL.format(task="relevance"), asked, task="relevance").layout == "project"
    setting("tokenizer_config.json", chat_template=TEMPLATE)(llama)
    assert scored(llama, asked).layout == "chat"


@pytest.mark.parametrize("task", ["relevance", "factuality", "completeness"])
def test_the_projects_own_pay_what_ppo_pays(task, asked):
    """Size times the sum over segments of what the model says; completeness less its training's mean, by its deviation."""
    folder = config.FIXTURE_REWARD_MODEL.format(task=task)
    found = scored(folder, asked, task=task)
    p, one = config.PPO(task=task, evaluator=folder), asked[0]
    texts = list(one.responses.values())
    values = evaluator_of(p, {"heldout": []})([one.question] * len(texts), texts, data.segments_of(p, texts, task))
    size = {"relevance": 0.3, "factuality": 0.5, "completeness": 0.3}[task]
    mean, deviation = (found.metrics.get(name, default) for name, default in (("score_mean", 0.0), ("score_std", 1.0)))
    by_hand = [size * (sum(row) - mean) / deviation for row in values]
    assert [found.scores["q0", name] for name in one.responses] == pytest.approx(by_hand, abs=1e-5)
    assert not found.pairwise


def headless(name):
    return None if name.startswith("classifier") else name


BLOCKED = {
    "a head that was not saved": ([renamed(headless)], ["classifier.weight"]),
    "an LFS pointer": ([write("model.safetensors", POINTER)], ["model.safetensors", "git lfs pull"]),
    "half a file": ([cut("model.safetensors")], ["safetensors"]),
    "no tokenizer": ([remove("tokenizer.json", "tokenizer_config.json")], ["tokenizer"]),
    "a language model": ([setting("config.json", architectures=["LlamaForCausalLM"])], ["LlamaForCausalLM", "DPO", "scores"]),
    "a pairwise model": ([setting("config.json", architectures=["DebertaV2PairRM"])], ["two responses", "scores"]),
    "code of its own": (
        [setting("config.json", auto_map={"AutoConfig": "own.Own"}, model_type="own"), write("own.py", "class Own: pass")],
        ["trust_remote_code"],
    ),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_what_is_no_reward_model_is_blocked_by_name(case, plain, asked, tmp_path):
    changes, named = BLOCKED[case]
    folder = altered(plain, tmp_path / "changed", *changes)
    found = scored(folder, asked)
    assert all(word in found.blocked for word in (str(folder), *named)), found.blocked
    assert found.scores == {}


@pytest.mark.parametrize(
    ("values", "named"),
    [({"labels": {"good": 1.0}}, "labels"), ({"layout": "chat"}, "chat"), ({"max_length": 3}, "3 tokens")],
)
def test_what_does_not_fit_a_candidate_is_blocked(values, named, plain, asked):
    assert named in scored(plain, asked, **values).blocked


@pytest.mark.heavy
def test_messages_need_a_chat_template(plain, asked):
    said = [Asked(one.id, [{"role": "user", "content": one.prompt}], one.question, one.responses) for one in asked]
    found = scored(plain, said)
    assert all(word in found.blocked for word in ("messages", "chat template", "layout"))
    assert scored(plain, said, layout="pair").scores == scored(plain, asked).scores


def test_a_template_that_refuses_a_role_blocks(llama, asked):
    setting("tokenizer_config.json", chat_template="{{ raise_exception('no system role') }}")(llama)
    assert all(word in scored(llama, asked).blocked for word in ("chat template", "no system role"))


def test_a_doubled_start_token_is_found(plain, asked, tmp_path):
    folder = altered(plain, tmp_path / "changed", setting("tokenizer_config.json", chat_template="<s><s>" + TEMPLATE))
    assert "two start tokens" in scored(folder, asked).blocked


@pytest.mark.heavy
def test_cut_inputs_are_counted_and_all_of_them_block(plain, asked):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    texts = {(one.question.prompt, text) for one in asked for text in one.responses.values()}
    tokens = sorted(len(tokenizer(*pair).input_ids) for pair in texts)
    limit = tokens[len(tokens) // 2]
    assert scored(plain, asked, max_length=tokens[0] - 1).blocked.endswith("shorter texts")
    some = scored(plain, asked, max_length=limit)
    assert some.blocked == ""
    assert some.checks["cut"] == pytest.approx(sum(length > limit for length in tokens) / len(tokens))
    assert some.checks["cut"] > 0


def constant(bias):
    """A head that scores every text with its bias."""

    def change(folder):
        weights = load_file(folder / "model.safetensors")
        weights |= {
            "classifier.weight": torch.zeros_like(weights["classifier.weight"]),
            "classifier.bias": torch.tensor([bias]),
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(("bias", "moved"), [(0.5, 0.0), (257.0, 1 / 257)])
def test_what_bfloat16_loses_is_measured(bias, moved, plain, asked, tmp_path):
    """From 256 on bfloat16 has even numbers alone: 257 becomes 256."""
    found = scored(altered(plain, tmp_path / "changed", constant(bias)), asked)
    assert found.checks["bfloat16"] == pytest.approx(moved, rel=1e-3)


@pytest.mark.heavy
def test_padding_on_the_other_side_moves_positions_counted_from_the_first_token_alone(plain, llama, asked):
    """A BERT has such positions, a decoder with rotary ones has none."""
    assert scored(plain, asked).checks["other_side"] > 0.01
    assert scored(llama, asked).checks["other_side"] < 1e-5


@pytest.mark.heavy
@pytest.mark.parametrize("error", [RuntimeError("no kernel for BFloat16"), torch.OutOfMemoryError("no memory")])
def test_a_check_that_fails_costs_no_score(error, plain, asked, monkeypatch):
    whole = candidates.Scorer.__call__

    def called(scorer, some, batch, other_side=False):
        if scorer.network.dtype == torch.bfloat16 or other_side:
            raise error
        return whole(scorer, some, batch)

    expected = scored(plain, asked).scores
    monkeypatch.setattr(candidates.Scorer, "__call__", called)
    found = scored(plain, asked)
    assert (found.blocked, found.scores) == ("", expected)
    assert np.isnan([found.checks["bfloat16"], found.checks["other_side"]]).all()
    assert all(said in found.unchecked for said in ("bfloat16", "other side", str(error)))


def test_scores_that_are_not_finite_in_bfloat16_alone_are_told(plain, asked, monkeypatch):
    whole = candidates.Scorer.__call__

    def called(scorer, some, batch, other_side=False):
        return whole(scorer, some, batch, other_side) * (np.nan if scorer.network.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(candidates.Scorer, "__call__", called)
    assert "not finite" in scored(plain, asked).unchecked


def test_scores_that_change_with_the_batch_block(plain, asked, monkeypatch):
    def padded(scorer, some, batch, other_side=False):
        return np.arange(len(some)) + 0.01 * batch

    monkeypatch.setattr(candidates.Scorer, "__call__", padded)
    found = scored(plain, asked)
    assert "batch" in found.blocked
    assert found.scores == {}


def test_not_a_number_and_all_alike(asked, monkeypatch):
    keys = [(one.id, name) for one in asked for name in one.responses]
    for value, named in ((float("nan"), "not finite"), (1.5, "alike")):
        monkeypatch.setattr(candidates, "apart", lambda *_, value=value: Scored(dict.fromkeys(keys, value)))
        assert named in score(config.Candidate(model="m"), parameters(), asked).blocked


def test_a_process_that_dies_blocks_its_candidate_alone(asked, monkeypatch):
    monkeypatch.setattr(candidates, "_by_model", _dies)
    assert "killed" in score(config.Candidate(model="m"), parameters(), asked).blocked


def _dies(*_):
    import os

    os._exit(9)


def test_code_of_its_own_that_fails_blocks_its_candidate_alone(asked, monkeypatch):
    def load(*_):
        raise RuntimeError("no attribute 'x'")

    monkeypatch.setattr(candidates, "load_scorer", load)
    assert "RuntimeError: no attribute 'x'" in scored("m", asked, trust_remote_code=True).blocked
    with pytest.raises(RuntimeError):
        scored("m", asked)


def test_candidates_have_processes_of_their_own():
    import os

    assert candidates.apart(os.getpid) != os.getpid()


@pytest.fixture
def table(asked, tmp_path):
    path = tmp_path / "scores.jsonl"
    rows = [{"prompt_id": one.id, "response_id": k, "score": len(text)} for one in asked for k, text in one.responses.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_scores_from_elsewhere(table, asked):
    found = score(config.Candidate(scores=str(table)), parameters(), asked)
    assert found.scores["q0", "1"] == len(asked[0].responses["1"])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("a", "absent.jsonl", DataError),
        ("a", "absent", ModelError),
        ("a", {"model": "absent", "trust_remote_code": True}, ModelError),
        ("judge", "absent", ModelError),
        ("judge", "absent.csv", DataError),
        ("judgement", "absent.jsonl", DataError),
    ],
)
def test_what_is_not_there_is_found_first(name, value, error, plain, table):
    given = {"a": str(table), "b": str(plain)}
    candidates.check(parameters(candidates=given))
    changed = {"candidates": given | {"a": value}} if name == "a" else {"candidates": given, name: value}
    with pytest.raises(error, match="absent"):
        candidates.check(parameters(**changed))


def test_no_code_of_a_model_runs_before_it_is_scored_apart(plain, table, tmp_path):
    own = {"auto_map": {"AutoConfig": "own.Own"}, "model_type": "own"}
    folder = altered(plain, tmp_path / "changed", setting("config.json", **own), write("own.py", "raise RuntimeError('ran')"))
    given = {"a": str(table), "b": {"model": str(folder), "trust_remote_code": True}}
    candidates.check(parameters(candidates=given))
    with pytest.raises(ModelError, match="trust_remote_code"):
        candidates.check(parameters(candidates=given | {"b": str(folder)}))


def test_a_missing_score_is_named(table, asked):
    table.write_text("".join(table.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(DataError, match=r"prompt_id = 'q0', response_id = '0' \(1 in all\)"):
        score(config.Candidate(scores=str(table)), parameters(), asked)


def test_an_adapter_whose_base_is_not_here(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/never-there"}))
    with pytest.raises(ModelError, match="adapter of 'org/never-there'"):
        load_scorer(config.Candidate(model=str(tmp_path)), parameters())


def test_a_model_of_the_hub_that_cannot_be_reached():
    with pytest.raises(ModelError, match="org/never-there"):
        load_scorer(config.Candidate(model="org/never-there"), parameters())


def test_an_adapter_without_peft(plain, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(plain)}))
    save_file({"base_model.model.classifier.weight": torch.zeros(1, 64)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter.*pip install .*adapters"):
        load_scorer(config.Candidate(model=str(folder)), parameters())


@pytest.mark.parametrize(("content", "named"), [(POINTER, "git lfs pull"), (b"\x40" + bytes(20), "damaged")])
def test_an_adapter_whose_file_is_not_whole(content, named, plain, asked, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(plain)}))
    (folder / "adapter_model.safetensors").write_bytes(content)
    blocked = scored(folder, asked).blocked
    assert all(word in blocked for word in (str(folder), "adapter_model.safetensors", named))
    assert "\n" not in blocked


@pytest.fixture
def adapter(plain, tmp_path):
    """A function that trains nothing and saves an adapter of ``plain``, with a head of so many outputs or without."""
    peft = pytest.importorskip("peft")  # of the extra `adapters`

    def save(head):
        options = {"num_labels": head, "ignore_mismatched_sizes": True} if head else {}
        base = AutoModelForSequenceClassification.from_pretrained(plain, **options)
        kept = ["classifier"] if head else None
        torch.manual_seed(1)
        lora = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=kept, init_lora_weights=False)
        adapted = peft.get_peft_model(base, lora)
        adapted.peft_config["default"].base_model_name_or_path = str(plain)
        adapted.save_pretrained(tmp_path / "adapter")
        return adapted.eval()

    return save


@pytest.mark.parametrize(("outputs", "named"), [(1, {}), (2, {"output": "LABEL_1"})])
def test_an_adapter_scores_as_peft_has_it(outputs, named, adapter, plain, asked, tmp_path):
    network = adapter(head=outputs)
    found = scored(tmp_path / "adapter", asked, **named)
    encoded = AutoTokenizer.from_pretrained(plain)(asked[0].question.prompt, asked[0].responses["0"], return_tensors="pt")
    with torch.inference_mode():
        by_hand = float(network(**encoded).logits[0, -1])
    assert found.scores["q0", "0"] == pytest.approx(by_hand, abs=1e-5)
    if outputs > 1:
        assert "LABEL_0, LABEL_1" in scored(tmp_path / "adapter", asked).blocked


def test_an_adapter_of_another_model(adapter, asked, tmp_path):
    adapter(head=1)
    setting("adapter_config.json", target_modules=["nowhere"])(tmp_path / "adapter")
    assert "does not fit its base" in scored(tmp_path / "adapter", asked).blocked


def test_an_adapter_without_a_head_on_a_base_without_one(adapter, plain, asked, tmp_path):
    adapter(head=0)
    renamed(headless)(plain)
    assert "modules_to_save" in scored(tmp_path / "adapter", asked).blocked
