"""Snakemake is started without its limit of jobs a second, whose looks at the waiting jobs add up."""

import pytest

from paradox_utils.study import scheduler


@pytest.mark.parametrize(("success", "code"), [(True, 0), (False, 1)])
def test_no_limit_is_asked_for(monkeypatch, success, code):
    asked = {}

    def noted(options, _parser):
        asked.update(vars(options))
        return success

    monkeypatch.setattr(scheduler, "args_to_api", noted)
    assert scheduler.main(["--cores", "3", "--keep-going"]) == code
    assert (asked["max_jobs_per_timespan"], asked["max_jobs_per_second"]) == (None, None)
    assert (asked["cores"], asked["keep_going"]) == (3, True)
