"""Reward models: what they read, and that scores do not shift."""

import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForMaskedLM

from paradox_utils import config
from paradox_utils.policies.models import ModelError, fast_tokenizer
from paradox_utils.rewards import examples, judges, model
from paradox_utils.rewards.encoders import atlas_reward_tokenizer, load_encoder
from paradox_utils.rewards.model import IGNORED, NonFiniteScoresError, RewardScorer
from tests.conftest import answered

F_ERR, NF_ERR, OK = range(3)
PAD, HEAD, MARK = 0, 1, 2  # <pad>, <s>, </s> of the Atlas reward tokenizer
CONTEXT, CLAUSES = "question: what of zodor? answer:", ("the color of zodor isle is kane,", "and its stone is surely mane.")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """Directory of a tiny decoder-only model with random weights."""
    folder, tokenizer = tmp_path_factory.mktemp("llama"), atlas_reward_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, pad_token_id=PAD, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def scorer_of(backbone, pairwise=False, max_length=2048, **options):
    """A scorer with weights so random that its outputs, of the order of 1, depend on all they read."""
    model, tokenizer = load_encoder(backbone, pairwise, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.15)
    return RewardScorer(model, tokenizer, max_length, **options)


BACKBONES = ["atlas-bert-32", "atlas-longformer", "llama"]


@pytest.fixture
def backbone(request, llama):
    return llama if request.param == "llama" else request.param


@pytest.fixture(scope="module")
def batch():
    """Contexts of very different length, with none to many segments."""
    contexts, segments = [], []
    for index, record in enumerate(answered(7, seed=5)):
        example = examples.training_examples(config.Source(), [record], ("relevance", "factuality")[index % 2])
        contexts.append(example[0].context)
        segments.append(example[0].segments)
    return [*contexts, contexts[0], CONTEXT], [*segments, (), ("kane.",)]


# --- inputs -------------------------------------------------------------------------------------------------------------------


def ids(text):
    return atlas_reward_tokenizer()(text, add_special_tokens=False).input_ids


def test_marks_stand_before_the_segments_of_an_encoder():
    scorer = scorer_of("atlas-bert-32")
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    one, empty = scorer.encode_segments([CONTEXT, CONTEXT], [CLAUSES, ()])
    assert one.ids == [HEAD, *context, MARK, *first, MARK, *second, MARK]
    assert one.marks == [1 + len(context), 2 + len(context) + len(first)]
    assert one.types == [0] * (1 + len(context)) + [1] * (len(first) + len(second) + 3)
    assert not one.truncated
    assert (empty.ids, empty.marks) == ([HEAD, *context, MARK], [])


def test_marks_stand_after_the_segments_of_a_causal_backbone(llama):
    scorer = scorer_of(llama)
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    (one,) = scorer.encode_segments([CONTEXT], [CLAUSES])
    assert one.ids == [HEAD, *context, *first, MARK, *second, MARK, MARK]
    assert one.marks == [1 + len(context) + len(first), 2 + len(context) + len(first) + len(second)]
    assert [one.ids[mark] for mark in one.marks] == [MARK, MARK]


def test_over_long_inputs_lose_the_end_of_the_context_first():
    scorer = scorer_of("atlas-bert-32")
    context, first, second = ids(CONTEXT), *map(ids, CLAUSES)
    whole = 2 + len(context) + 2 + len(first) + len(second)

    def encoded(limit):
        (one,) = replace(scorer, max_length=limit).encode_segments([CONTEXT], [CLAUSES])
        assert len(one.ids) == len(one.types) == min(limit, whole)
        assert (one.ids[0], one.ids[-1]) == (HEAD, MARK)
        assert one.truncated == (limit < whole)
        return one

    assert encoded(whole).ids[1 : 1 + len(context)] == context  # it fits to the token, and is not counted
    cut = encoded(whole - 3)
    assert cut.ids == [HEAD, *context[:-3], MARK, *first, MARK, *second, MARK]
    assert cut.marks == [len(context) - 2, len(context) - 1 + len(first)]
    bare = encoded(4 + len(first) + len(second))
    assert bare.ids == [HEAD, MARK, *first, MARK, *second, MARK]
    shorter = encoded(4 + len(first) + 1)  # no context, the second segment cut: its mark is there, so it still counts
    assert (shorter.ids, shorter.marks) == ([HEAD, MARK, *first, MARK, second[0], MARK], [1, 2 + len(first)])
    assert encoded(3 + len(first)).marks == [1, -1]
    with pytest.raises(ModelError, match="max_length = 3"):
        encoded(3)


def test_a_causal_mark_is_lost_with_the_end_of_its_segment(llama):
    scorer = scorer_of(llama)
    first, second = map(ids, CLAUSES)
    limit = 2 + len(first) + 1 + len(second)  # one token short of the second mark
    (one,) = replace(scorer, max_length=limit).encode_segments([CONTEXT], [CLAUSES])
    assert one.marks == [1 + len(first), -1]
    assert one.truncated


def test_pairs_read_context_and_response():
    scorer = scorer_of("atlas-bert-32", pairwise=True)
    context, response = ids(CONTEXT), ids(CLAUSES[0])
    one, empty = scorer.encode_wholes([CONTEXT, CONTEXT], [CLAUSES[0], ""])
    assert one.ids == [HEAD, *context, *response, MARK]
    assert one.types == [0] * (1 + len(context)) + [1] * (len(response) + 1)
    assert (one.truncated, empty.truncated) == (False, False)
    assert empty.ids == [HEAD, *context, MARK]
    whole = len(context) + len(response) + 2
    for limit, kept in ((whole, len(context)), (whole - 1, len(context) - 1), (len(response) + 2, 0)):
        (one,) = replace(scorer, max_length=limit).encode_wholes([CONTEXT], [CLAUSES[0]])
        assert one.ids == [HEAD, *context[:kept], *response, MARK]
        assert one.truncated == (limit < whole)
    (one,) = replace(scorer, max_length=5).encode_wholes([CONTEXT], [CLAUSES[0]])
    assert one.ids == [HEAD, *response[:3], MARK]


def test_labels_sit_on_the_marks_and_padding_is_ignored():
    scorer = scorer_of("atlas-longformer", max_length=20)
    inputs = scorer.encode_segments([CONTEXT, "a"], [CLAUSES, (*CLAUSES, CLAUSES[0])])
    assert inputs[1].marks[2] == -1  # cut off: no label to learn
    labels = [(NF_ERR, None), (OK, F_ERR, NF_ERR)]
    rows = [model.features(one, row) for one, row in zip(inputs, labels, strict=True)]
    tensors = scorer.collate(rows)
    longest = max(len(one.ids) for one in inputs)
    assert tensors["labels"].shape == tensors["input_ids"].shape == (2, longest)
    for index, (one, row) in enumerate(zip(inputs, labels, strict=True)):
        expected = {mark: label for mark, label in zip(one.marks, row, strict=True) if label is not None and mark >= 0}
        found = {i: v for i, v in enumerate(tensors["labels"][index].tolist()) if v != IGNORED}
        assert found == expected
        assert tensors["attention_mask"][index].tolist() == [1] * len(one.ids) + [0] * (longest - len(one.ids))
        globally = tensors["global_attention_mask"][index].nonzero().flatten().tolist()
        assert globally == [mark for mark in one.marks if mark >= 0]
    assert not replace(scorer, global_attention=False).collate(rows)["global_attention_mask"].any()
    assert "token_type_ids" not in tensors  # this Longformer has one type
    tensors = scorer_of("atlas-bert-32").collate(rows)
    assert tensors["token_type_ids"][0].tolist() == inputs[0].types + [0] * (longest - len(inputs[0].ids))
    assert "global_attention_mask" not in tensors


@pytest.mark.parametrize("attention", [True, False])
def test_a_pairwise_longformer_attends_globally_from_its_first_token_and_no_other(attention):
    scorer = scorer_of("atlas-longformer", pairwise=True, global_attention=attention)
    rows = [model.features(one) for one in scorer.encode_wholes([CONTEXT, "a"], CLAUSES)]
    mask = scorer.collate(rows)["global_attention_mask"]
    assert mask.nonzero().tolist() == [[0, 0], [1, 0]]


BYTES_TEXT = ["which of the towns is it , then? answer: question:", "The town is  Velm,\n which The river crosses. Velm!"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """Directory of a tiny RoBERTa with a byte-level tokenizer, which spells a word without its space differently."""
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<s>", "<pad>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(BYTES_TEXT * 3, trainer)
    fast_tokenizer(
        tokenizer, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>"
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    RobertaForMaskedLM(RobertaConfig(vocab_size=330, pad_token_id=1, **sizes)).save_pretrained(folder)
    return str(folder)


def test_segments_are_words_with_a_space_before_each(byte_level):
    """As ``add_prefix_space`` and ``is_split_into_words`` of the released code make them, whatever white space the text has."""
    scorer = scorer_of(byte_level)
    segments = ["The town is  Velm,", "\nwhich The river\u00a0crosses."]
    (one,) = scorer.encode_segments(["question: which town? answer:"], [segments])
    spelled = scorer.tokenizer.convert_ids_to_tokens(one.ids)
    first, second = spelled.index("</s>"), spelled.index("</s>", spelled.index("</s>") + 1)
    assert spelled[0] == "<s>"
    assert {spelled[place + 1][0] for place in (0, first, second)} == {"Ġ"}
    words = f"question: which town? answer: </s> {' </s> '.join(segments)}".split()
    backend = Tokenizer.from_str(scorer.tokenizer.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert one.ids == [0, *backend.encode(words, is_pretokenized=True, add_special_tokens=False).ids, 2]
    assert scorer.tokenizer.decode(one.ids).count("  ") == 0


def test_a_pairwise_input_is_the_text_as_it_is(byte_level):
    scorer = scorer_of(byte_level, pairwise=True)
    (one,) = scorer.encode_wholes(["question: which? answer:"], ["The  town\nis Velm."])
    whole = scorer.tokenizer("question: which? answer: The  town\nis Velm.", add_special_tokens=False).input_ids
    assert one.ids == [0, *whole, 2]


PREPENDS = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # Llama 2's


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": PREPENDS},
        {"pre_tokenizer": pre_tokenizers.Metaspace()},
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first")},
        {"pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="never")},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False)},
    ],
    ids=["prepend", "metaspace", "first", "never", "prefix", "bytes"],
)
def test_no_text_has_two_spaces_before_it(part):
    """Whoever puts the space there: a context, a segment and a response each begin with one."""
    backend = Tokenizer(BPE())
    for name, value in part.items():
        setattr(backend, name, value)
    alphabet = [*pre_tokenizers.ByteLevel.alphabet(), "▁"]
    special = {"special_tokens": ["</s>"], "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator(["the river crosses a town"] * 3, trainers.BpeTrainer(vocab_size=300, **special))
    scorer = RewardScorer(scorer_of("atlas-bert-8").model, fast_tokenizer(backend, eos_token="</s>"), 2048)
    (tokens,) = scorer.encode_segments(["The river"], [["The town.", "a river"]])
    (whole,) = scorer.encode_wholes([""], ["The river"])
    for ids in (tokens.ids, whole.ids):
        text = "".join(scorer.tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", "▁")
        assert text in ("▁The▁river</s>▁The▁town.</s>▁a▁river</s>", "▁The▁river</s>")


# --- scores -------------------------------------------------------------------------------------------------------------------


def together(scorer, contexts, segments, batch):
    scorer.batch = batch
    return scorer.segment_logits(contexts, segments)


@pytest.mark.parametrize(
    ("backbone", "attention"), [*((name, True) for name in BACKBONES), ("atlas-longformer", False)], indirect=["backbone"]
)
def test_segment_scores_do_not_shift(backbone, attention, batch):
    """Padding, batch size, what else is in the batch, and the order: all without effect."""
    contexts, segments = batch
    scorer = scorer_of(backbone, global_attention=attention)
    alone = [scorer.segment_logits([c], [s])[0] for c, s in zip(contexts, segments, strict=True)]
    assert [row.shape for row in alone] == [(len(s), 3) for s in segments]
    assert torch.cat(alone).std() > 0.1
    for size in (1, 2, 64):
        for row, expected in zip(together(scorer, contexts, segments, size), alone, strict=True):
            torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    backwards = together(scorer, contexts[::-1], segments[::-1], 64)
    for row, expected in zip(backwards[::-1], alone, strict=True):
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)
    company = together(scorer, [contexts[0], " ".join([contexts[1]] * 4)], [segments[0], segments[1] * 3], 64)
    torch.testing.assert_close(company[0], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", BACKBONES, indirect=True)
def test_pairwise_scores_do_not_shift(backbone, batch):
    contexts, segments = batch
    responses = [" ".join(s) for s in segments]
    scorer = scorer_of(backbone, pairwise=True)
    alone = torch.cat([scorer.scores([c], [r]) for c, r in zip(contexts, responses, strict=True)])
    assert alone.shape == (9,)
    assert alone.std() > 0.05
    order = random.Random(0).sample(range(9), 9)
    for size in (1, 2, 64):
        scorer.batch = size
        torch.testing.assert_close(scorer.scores(contexts, responses), alone, atol=1e-5, rtol=0)
        shuffled = scorer.scores([contexts[i] for i in order], [responses[i] for i in order])
        torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["atlas-bert-32", "atlas-longformer"], indirect=True)
def test_scores_in_half_precision_stay_near(backbone, batch):
    contexts, segments = batch
    scorer = scorer_of(backbone)
    exact = torch.cat(scorer.segment_logits(contexts, segments))
    scorer.model.to(torch.bfloat16)
    alone = torch.cat(together(scorer, contexts, segments, 1))
    assert alone.dtype == torch.float32
    # bfloat16 keeps 8 bits: a relative error of 0.4 % in each of a few layers
    near = {"atol": 0.1 * exact.std().item(), "rtol": 0.1}
    torch.testing.assert_close(alone, exact, **near)
    torch.testing.assert_close(torch.cat(together(scorer, contexts, segments, 64)), alone, **near)


def test_global_attention_lets_a_mark_see_a_distant_passage():
    """Window 32 and two layers: ± 32 tokens. The changed word stands 150 tokens before the mark."""
    near, far = (f"{word} {'stone of lake . ' * 37} answer:" for word in ("kane", "mane"))
    moved = {}
    for attention in (True, False):
        scorer = scorer_of("atlas-longformer", global_attention=attention)
        first, second = (scorer.segment_logits([context], [CLAUSES])[0] for context in (near, far))
        moved[attention] = (first - second).abs().max().item()
    assert moved[True] > 1e-3
    assert moved[False] == 0.0


def test_a_causal_label_depends_on_its_segment_and_nothing_after_it(llama):
    scorer = scorer_of(llama)
    first, second = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    other = scorer.segment_logits([CONTEXT], [(CLAUSES[0], "and its founder is surely bane.")])[0]
    torch.testing.assert_close(other[0], first, atol=1e-5, rtol=0)
    assert (other[1] - second).abs().max() > 1e-3
    changed = scorer.segment_logits([CONTEXT], [("the color of zodor isle is gane,", CLAUSES[1])])[0]
    assert (changed[0] - first).abs().max() > 1e-3


def test_an_encoder_reads_both_ways():
    scorer = scorer_of("atlas-bert-32")
    first, second = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    other = scorer.segment_logits([CONTEXT], [(CLAUSES[0], "and its founder is surely bane.")])[0]
    assert (other[0] - first).abs().max() > 1e-4
    assert (second - first).abs().max() > 1e-4


@pytest.mark.parametrize("backbone", BACKBONES, indirect=True)
@pytest.mark.parametrize("words", [510, 520, 2000])
def test_inputs_over_the_position_table_are_cut_and_counted(backbone, words):
    scorer = scorer_of(backbone)
    assert scorer.limit == {"bert": 514, "longformer": 513, "llama": 512}[scorer.model.config.model_type]
    context = "stone " * words
    logits = scorer.segment_logits([context, CONTEXT], [CLAUSES, CLAUSES])
    assert torch.isfinite(torch.cat(logits)).all()
    assert scorer.truncated == 1  # the second fits
    scores = scorer_of(backbone, pairwise=True)
    assert torch.isfinite(scores.scores([context, CONTEXT], [CLAUSES[0], "kane"])).all()
    assert scores.truncated == 1


def test_segments_that_cannot_be_read_are_nan_and_earn_nothing(question):
    scorer = scorer_of("atlas-bert-32", max_length=12)
    logits = scorer.segment_logits([CONTEXT], [CLAUSES])[0]
    assert logits.isnan().tolist() == [[False] * 3, [True] * 3]
    assert scorer.truncated == 1
    judge = judges.model_judge(scorer, config.PPO(task="relevance"))
    values = judge([question], [" ".join(CLAUSES)], [[(0, 32), (33, 62)]])[0]
    assert abs(values[0]) == 1.0
    assert values[1] == 0.0


def test_broken_weights_are_no_silent_zero():
    """Without this a model that blew up in its last steps would look like one that is always wrong, or pay nothing."""
    scorer = scorer_of("atlas-bert-32")
    with torch.no_grad():
        scorer.model.classifier.bias[1] = float("nan")
    with pytest.raises(NonFiniteScoresError, match="scores are not finite"):
        scorer.segment_logits([CONTEXT], [CLAUSES])


# --- tokenised once -----------------------------------------------------------------------------------------------------------


class Counting:
    """A tokenizer that notes the texts it is given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.seen = tokenizer, []

    def __call__(self, texts, **options):
        self.seen += texts
        return self.tokenizer(texts, **options)

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


@pytest.mark.parametrize("pairwise", [False, True])
def test_a_context_is_tokenised_once(pairwise, batch, monkeypatch):
    contexts, segments = batch
    scorer = scorer_of("atlas-bert-32", pairwise)

    def scored(contexts):
        if pairwise:
            return scorer.scores(contexts, [" ".join(s) for s in segments])
        return torch.cat(scorer.segment_logits(contexts, segments))

    expected = scored(contexts)
    scorer.tokenizer = counting = Counting(scorer.tokenizer)
    scorer.known.clear()
    monkeypatch.setattr(model, "KEPT_CONTEXTS", 10)
    for _ in range(2):
        assert torch.equal(scored(contexts), expected)
    seen = [text.removeprefix(" ") for text in counting.seen]
    assert [seen.count(context) for context in contexts] == [1] * len(contexts)  # one of them stands there twice
    assert seen.count(segments[0][0] if not pairwise else " ".join(segments[0])) >= 2
    scored([f"{context} more" for context in contexts])
    assert len(scorer.known) == 2 * len(set(contexts)) > 10
    scored(contexts)  # over the limit: the table starts over
    assert {context.removeprefix(" ") for context in scorer.known} == set(contexts)


@pytest.mark.heavy
def test_scoring_loads_nothing_that_only_training_needs():
    heavy = {"transformers.trainer", "datasets", "sklearn", "trl.trainer.reward_trainer"}
    code = f"import sys; from paradox_utils.stages import ppo; print({heavy} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
