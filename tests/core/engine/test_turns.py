"""Turns: who is next, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from core.engine.job import Job
from core.engine.line import Line
from core.engine.turns import Turns, cost
from core.errors import RequestError
from core.request import Enlarge, GenerationRequest

ASKED = GenerationRequest(prompt="", checkpoint="a", seed=1, width=64, height=64, steps=10)


@dataclass(frozen=True)
class Entry:
    name: str
    request: GenerationRequest = ASKED

    @property
    def owner(self) -> str:
        return self.name[0]


def begun_in_order(names: list[str], after_first: bool = True) -> list[str]:
    """The order in which jobs begin when the first is taken at once and no more come."""
    turns, waiting = Turns(), [Entry(name) for name in names]
    order = []
    while waiting:
        job = turns.ordered(waiting)[0]
        waiting.remove(job)
        turns.begun(job.owner)
        order.append(job.name)
    return order


def test_owners_take_turns() -> None:
    asked = ["A1", "A2", "B1", "C1", "C2", "A3"]
    assert begun_in_order(asked) == ["A1", "B1", "C1", "A2", "C2", "A3"]


def test_the_order_is_told_before_it_happens() -> None:
    turns = Turns()
    waiting = [Entry(name) for name in ("A1", "A2", "B1", "C1", "C2", "A3")]
    told = [job.name for job in turns.ordered(waiting)]
    assert told == begun_in_order([job.name for job in waiting])


@given(some.lists(some.sampled_from("ABC"), max_size=24))
def test_nobody_who_waits_falls_two_turns_behind(owners: list[str]) -> None:
    order = [name[0] for name in begun_in_order([f"{owner}{i}" for i, owner in enumerate(owners)])]
    for length in range(len(order)):
        done, left = order[:length], set(order[length:])
        turns = [done.count(owner) for owner in left]
        most = max((done.count(owner) for owner in set(order)), default=0)
        assert not turns or most - min(turns) <= 1


def test_who_comes_late_joins_the_round_under_way() -> None:
    turns = Turns()
    for _ in range(50):
        turns.begun("A")
    assert [j.name for j in turns.ordered([Entry("A51"), Entry("B1"), Entry("B2")])] == [
        "B1",
        "A51",
        "B2",
    ]


def test_within_a_round_the_loaded_checkpoint_and_then_the_cheap_go_first() -> None:
    dear = Entry("A1", replace(ASKED, steps=50))
    cheap = Entry("B1")
    other = Entry("C1", replace(ASKED, checkpoint="b", steps=90))
    assert Turns().ordered([dear, cheap, other]) == [cheap, dear, other]
    assert Turns().ordered([dear, cheap, other], loaded="b") == [other, cheap, dear]
    later = Entry("C2", replace(ASKED, checkpoint="b"))
    assert Turns().ordered([other, later, dear, cheap], loaded="b")[-1] == later  # its round


def test_a_second_pass_costs_its_own_size() -> None:
    assert cost(ASKED) == 64 * 64 * 10
    assert cost(replace(ASKED, enlarge=Enlarge(scale=2))) == 64 * 64 * 10 * 5


def test_the_expected_wait_counts_what_is_before() -> None:
    now = 0.0
    line = Line(clock=lambda: now)
    first, second, third = (Job(ASKED, owner) for owner in "abc")
    for job in (first, second, third):
        line.add(job)
    assert line.expected(third) is None  # nothing has run yet
    assert line.take() is first
    line.took(first, 10.0)
    now = 4.0
    assert line.expected(second) == pytest.approx(6)
    assert line.expected(third) == pytest.approx(16)
    assert [line.place(job) for job in (first, second, third)] == [0, 1, 2]


def test_own_jobs_can_be_arranged_and_nobody_elses() -> None:
    line = Line()
    mine = [Job(ASKED, "me", id) for id in ("1", "2", "3")]
    theirs = Job(ASKED, "them", "4")
    for job in (*mine, theirs):
        line.add(job)
    line.arrange(["3", "1"], "me")
    assert [line.take().id for _ in range(4)] == ["3", "4", "2", "1"]  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="waiting"):
        line.arrange(["1"], "me")
    line.add(theirs)
    with pytest.raises(RequestError, match="of yours"):
        line.arrange(["4"], "me")


def test_who_is_paused_waits_and_others_do_not() -> None:
    line = Line()
    mine, theirs = Job(ASKED, "me"), Job(ASKED, "them")
    line.add(mine)
    line.add(theirs)
    line.pause("me", True)
    assert line.take() is theirs
    line.ended()
    assert line.take() is None
    line.pause(None, True)
    line.pause("me", False)
    assert line.take() is None and line.place(mine) == 0
    line.pause(None, False)
    assert line.take() is mine


def test_who_listens_hears_of_every_change_and_of_none_after_that() -> None:
    line, heard = Line(), []

    def listener() -> None:
        heard.append(line.counts()[0])  # the line can be asked from where it tells

    line.changes.listen(listener)
    mine = [Job(ASKED, "me", id) for id in ("1", "2")]
    for job in mine:
        line.add(job)
    line.arrange(["2", "1"], "me")
    line.pause("me", True)
    assert heard == [1, 2, 2, 2]
    line.changes.forget(listener)
    line.pause("me", False)
    assert len(heard) == 4


def test_what_was_cancelled_while_it_waited_counts_no_more() -> None:
    line = Line()
    gone, stays = Job(ASKED, "me", "1"), Job(ASKED, "me", "2")
    line.add(gone)
    line.add(stays)
    gone.cancel()
    assert line.counts() == (1, 0) and line.place(stays) == 0
    assert line.struck_out() == [gone] and line.take() is stays
