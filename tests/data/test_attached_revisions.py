from dataclasses import replace

import pytest

from lit_vlm.data.attached_revisions import attach_revisions
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample, SampleMeta, assistant_message, user_message


def criticised(*texts):
    candidates = tuple(Candidate((assistant_message(text),), {"length": 3.0}) for text in texts)
    return Sample("page#0", (user_message("Judge."),), candidates=candidates)


def revised(place, *scores, parent="page#0"):
    """What was written after the critique at ``place``, one revision for each set of scores."""
    candidates = tuple(Candidate((assistant_message("so 5."),), each) for each in scores)
    meta = SampleMeta(extra={"parent": parent, "candidate": place})
    return Sample(f"{parent}#{place}", (user_message("Revise."),), meta=meta, candidates=candidates)


def scores_of(sample):
    return [dict(candidate.scores) for candidate in sample.candidates]


def test_each_critique_is_given_the_scores_of_its_revisions():
    (attached,), told = attach_revisions(
        [criticised("a", "b")], [revised(1, {"correct": 0.0}, {"correct": 1.0}), revised(0, *[{"correct": 1.0}] * 2)]
    )
    assert scores_of(attached) == [
        {"length": 3.0, "revision/0": 1.0, "revision/1": 1.0},
        {"length": 3.0, "revision/0": 0.0, "revision/1": 1.0},
    ]
    assert told == "2 of 2 critiques have 2 scored revisions"


def test_a_reward_goes_before_judges_and_these_before_the_verdict():
    revision = revised(0, {"reward": 7.0, "correct": 0.0}, {"correct": 0.0})
    judged = replace(revision.candidates[1], critique=Critique("q", "r", score=0.75))
    revision = replace(revision, candidates=(revision.candidates[0], judged))
    (attached,), _ = attach_revisions([criticised("a")], [revision])
    assert scores_of(attached)[0] == {"length": 3.0, "revision/0": 7.0, "revision/1": 0.75}


def test_where_a_reviser_is_missing_nobody_can_tell_which():
    (attached,), told = attach_revisions(
        [criticised("a", "b", "c")], [revised(0, *[{"correct": 1.0}] * 3), revised(1, *[{"correct": 1.0}] * 2)]
    )
    assert [len(scores) for scores in scores_of(attached)] == [4, 1, 1]
    assert told == "1 of 3 critiques have 3 scored revisions; 1 have fewer revisions than others, which are left out"


def test_revisions_of_nothing_here_are_refused():
    with pytest.raises(UserError, match="0 of 1 critiques.*RevisionPrompts"):
        attach_revisions([criticised("a")], [revised(0, {"correct": 1.0}, parent="other#0")])
    with pytest.raises(UserError, match="0 of 1 critiques"):
        attach_revisions([criticised("a")], [])
    with pytest.raises(UserError, match="0 of 1 critiques"):
        attach_revisions([criticised("a")], [replace(revised(0, {"correct": 1.0}), meta=SampleMeta())])


def test_a_revision_without_any_score_is_named():
    with pytest.raises(UserError, match="'page#0#0' has a revision without reward, judgement or verdict"):
        attach_revisions([criticised("a")], [revised(0, {"length": 3.0})])
