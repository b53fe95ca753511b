"""Several reward models at one run: what is paid, by hand and with models near the fixtures."""

import pytest
import torch

from paradox_utils import config, data
from paradox_utils.data.tasks import MARKED
from paradox_utils.files import resolve
from paradox_utils.policies.models import ModelError
from paradox_utils.rewards import model
from paradox_utils.rewards.judges import Centre, Ensemble, reward_function, reward_of
from tests.policies.altered import shaken_reward_models
from tests.rewards.test_controls import responses_to
from tests.rewards.test_placement import RIGHT, atlas_tokenizer, constant, placed, ppo, respond, tokens

TEXTS = [f"{RIGHT} {RIGHT}", RIGHT]


def rewards_of(task, judged, centres):
    """A reward function for each judge, which says the same of :data:`TEXTS` whatever it is asked."""
    return tuple(
        reward_function(atlas_tokenizer(), judge, centre, ppo(task)) for judge, centre in zip(judged, centres, strict=True)
    )


def asked(question):
    return respond(atlas_tokenizer(), question, [tokens(atlas_tokenizer(), text) for text in TEXTS])


def test_segments_are_paid_the_least_or_what_the_first_gives(question):
    one, two, three = [1, -1, 1, 1], [1, 1, -1, 1], [0.5, 1, 1, 0]  # the last: a probability, and a segment it could not read
    said = [constant(one, [-1, 1]), constant(two, [-1, 1]), constant(three, [-0.5, 1])]
    members = rewards_of("relevance", said, [Centre(), Centre(), Centre(0.0, 2.0)])  # each normalised on its own
    least, first = (Ensemble(members, least)(asked(question)) for least in (True, False))
    assert placed(least[0]) == {7: 0.075, 14: -0.3, 22: -0.3}
    assert placed(least[1]) == {7: -0.3, 14: 0.15}
    assert torch.equal(first, members[0](asked(question)))


def test_an_answer_is_paid_its_least_standardised_score(question):
    def says(*scores):
        return lambda _questions, _texts, _offsets: [[score] for score in scores]

    # deviations from each model's own mean: 1 and −1; 0.5 and 0
    members = rewards_of("completeness", [says(4.0, 0.0), says(10.0, 9.0)], [Centre(2.0, 2.0), Centre(9.0, 2.0)])
    grid = Ensemble(members, least=True)(asked(question))
    assert [placed(row) for row in grid] == [{30: pytest.approx(0.15)}, {15: pytest.approx(-0.3)}]


@pytest.mark.parametrize(("least", "broken"), [(True, 0), (True, 1), (False, 0)])
def test_a_score_that_is_not_finite_stays_so_where_it_pays(question, least, broken):
    def breaks(*_):
        raise model.NonFiniteScoresError

    said = [constant([1, 1, 1, 1], [1, 1])] * 2
    said[broken] = breaks
    members = rewards_of("relevance", said, [Centre(), Centre()])
    assert Ensemble(members, least)(asked(question)).isnan().all()
    if least and broken:
        assert torch.equal(Ensemble(members, False)(asked(question)), members[0](asked(question)))  # it only watched


@pytest.fixture(scope="module")
def feedback():
    return data.load_feedback(ppo("relevance"), resolve(config.FIXTURE_FEEDBACK))


@pytest.mark.heavy
@pytest.mark.parametrize("task", MARKED)
def test_reward_models_that_pay_together_pay_no_more_than_each(task, feedback, tmp_path):
    p, others = ppo(task, normalise_reward=True), shaken_reward_models(task, tmp_path)
    small = feedback | {"heldout": feedback["heldout"][:20]}
    alone = [
        reward_of(p.model_copy(update={"reward_model": name}), atlas_tokenizer(), small) for name in (p.reward_model, *others)
    ]
    together = p.model_copy(update={"other_reward_models": others, "others": "minimum"})
    reward, metrics, _ = reward_of(together, atlas_tokenizer(), small)
    responses = responses_to(feedback["heldout"][:20])
    each = torch.stack([single.function(responses) for single in alone])
    assert not torch.equal(each[0], each[1])
    assert torch.equal(reward(responses), each.min(0).values)
    assert torch.equal(reward.each(responses), each)
    assert metrics == alone[0].metrics  # of the first
    watched = reward_of(together.model_copy(update={"others": "watch"}), atlas_tokenizer(), small)
    assert torch.equal(watched.function(responses), each[0])


def test_inputs_that_are_cut_are_counted_for_every_model(feedback, tmp_path):
    p = ppo("relevance", other_reward_models=shaken_reward_models("relevance", tmp_path, count=1))
    for name in p.other_reward_models:
        (resolve(name) / "settings.json").write_text('{"max_length": 16, "task": "relevance"}')  # the first reads all
    reward, _, cut = reward_of(p, atlas_tokenizer(), feedback | {"heldout": feedback["heldout"][:20]})
    before = cut()
    reward(responses_to(feedback["heldout"][:2]))  # four responses each
    assert cut() - before == 8


def test_one_that_is_for_another_task_is_refused(feedback):
    p = ppo("relevance", other_reward_models=["fixtures/atlas/reward-{task}/../reward-factuality"])
    with pytest.raises(ModelError, match=r"reward-relevance/\.\./reward-factuality: .*F-ERR.*NF-ERR"):
        reward_of(p, atlas_tokenizer(), feedback)
