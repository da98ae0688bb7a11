"""The engine: jobs that anyone may watch, stop and find again after the process died."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from core.engine.engine import DecodeStep
from core.engine.job import Job, JobState
from core.engine.local import LocalEngine
from core.engine.queue import Queue, Row
from core.errors import Cancelled, FileError, RequestError, VitrineError
from core.events import Finished, ImageDone, Note, Started, Step
from core.registry import built_in
from core.request import GenerationRequest
from core.settings import Settings, default_settings
from tests.tiny import sd1_tensors, write_sd1

ASKED = GenerationRequest(prompt="an apple", checkpoint="tiny", seed=3, steps=3)
PATIENCE = 60


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    return default_settings(tmp_path)


@contextlib.contextmanager
def running(settings: Settings):  # type: ignore[no-untyped-def]
    engine = LocalEngine(settings, built_in())
    try:
        yield engine
    finally:
        engine.close()


def image(job: Job) -> bytes:
    (done,) = [e for e in job.events() if isinstance(e, ImageDone)]
    return done.image.tobytes()


def stepping(job: Job, count: int) -> None:
    """Waits until so many steps were published."""
    seen = 0
    for event in job:
        seen += isinstance(event, Step)
        if seen >= count:
            return


def test_a_job_is_resolved_when_it_is_submitted_and_its_picture_is_saved(
    settings: Settings,
) -> None:
    with running(settings) as engine:
        job = engine.submit(replace(ASKED, seed=None))
        assert job.request.seed is not None
        events = list(job)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    (done,) = [e for e in events if isinstance(e, ImageDone)]
    assert done.path is not None
    assert done.path.is_file()
    assert job.trace is not None
    assert job.state is JobState.FINISHED


def test_several_readers_see_the_whole_story_each_at_its_own_pace(settings: Settings) -> None:
    with running(settings) as engine:
        job = engine.submit(ASKED)
        first = list(job)
        assert list(job) == first
        assert [number for number, _ in job.follow(after=3)] == list(range(4, len(first) + 1))


def test_cancelling_discards_and_the_next_job_is_as_ever(settings: Settings) -> None:
    with running(settings) as engine:
        expected = engine.submit(ASKED)
        assert expected.wait(PATIENCE)
        long, queued = engine.submit(replace(ASKED, steps=200)), engine.submit(ASKED)
        waiting = engine.submit(ASKED)
        assert engine.place(waiting) > engine.place(queued)
        waiting.cancel()
        stepping(long, 2)
        long.cancel()
        with pytest.raises(Cancelled):
            list(long)
        with pytest.raises(Cancelled):
            list(waiting)
        assert queued.wait(PATIENCE)
        assert image(queued) == image(expected)
        assert not [e for e in long.events() if isinstance(e, ImageDone)]


def test_interrupting_saves_what_there_is(settings: Settings) -> None:
    with running(settings) as engine:
        job = engine.submit(replace(ASKED, steps=200, images=3))
        stepping(job, 3)
        job.interrupt()
        assert job.wait(PATIENCE)
        (done,) = [e for e in job.events() if isinstance(e, ImageDone)]
        assert not done.finished
        assert done.path is not None
        assert job.state is JobState.FINISHED


def test_skipping_begins_the_next_image(settings: Settings) -> None:
    with running(settings) as engine:
        job = engine.submit(replace(ASKED, steps=40, images=2))
        stepping(job, 3)
        job.skip()
        assert job.wait(PATIENCE)
        done = [e.finished for e in job.events() if isinstance(e, ImageDone)]
        assert done == [False, True]


def test_wrong_requests_are_refused_at_the_door(settings: Settings) -> None:
    with running(settings) as engine:
        with pytest.raises(RequestError, match="euler_ancestral"):
            engine.submit(replace(ASKED, sampler="nonesuch"))
        assert engine.jobs() == []
        with pytest.raises(RequestError, match="no job"):
            engine.job("nonesuch")


def test_an_error_in_a_run_is_the_jobs_own(settings: Settings) -> None:
    path = write_sd1(settings.models_dir / "Stable-diffusion/broken.safetensors")
    with running(settings) as engine:
        job = engine.submit(replace(ASKED, checkpoint="broken"))
        path.write_bytes(b"<!doctype html>")
        good = engine.submit(ASKED)
        assert good.wait(PATIENCE)
        if job.state is JobState.FAILED:  # it may have been read before it was broken
            with pytest.raises(VitrineError, match="HTML"):
                list(job)
        again = replace(ASKED, checkpoint="broken")
        with pytest.raises(VitrineError, match="HTML"):
            engine.submit(again)


def test_a_stored_step_can_be_looked_at_decoded(settings: Settings) -> None:
    with running(settings) as engine:
        job = engine.submit(ASKED)
        assert job.wait(PATIENCE)
        last = engine.inspect(DecodeStep(job.id, 0, 3, "latents")).result(PATIENCE)
        assert last.tobytes() == image(job)
        noise = engine.inspect(DecodeStep(job.id, 0, 0, "latents")).result(PATIENCE)
        assert noise.tobytes() != last.tobytes()
        with pytest.raises(VitrineError, match="step 9"):
            engine.inspect(DecodeStep(job.id, 0, 9, "latents")).result(PATIENCE)


def test_a_job_of_an_earlier_process_is_found_with_its_events(settings: Settings) -> None:
    with running(settings) as engine:
        job = engine.submit(ASKED)
        assert job.wait(PATIENCE)
    with running(settings) as engine:
        found = engine.job(job.id)
        assert found.state is JobState.FINISHED
        assert found.owner == job.owner
        assert image(found) == image(job)
        assert [j.id for j in engine.jobs("local")] == [job.id]
        assert engine.jobs("somebody else") == []


def test_what_was_queued_at_a_good_close_is_made_after_the_next_start(settings: Settings) -> None:
    with running(settings) as engine:
        expected = engine.submit(replace(ASKED, steps=60))
        assert expected.wait(PATIENCE)
    with running(settings) as engine:
        job, queued = engine.submit(replace(ASKED, steps=60)), engine.submit(ASKED)
        stepping(job, 5)
    with running(settings) as engine:
        again, next_one = engine.job(job.id), engine.job(queued.id)
        assert again.wait(PATIENCE)
        assert next_one.wait(PATIENCE)
        assert image(again) == image(expected)
        steps = [e.state.index for e in again.events() if isinstance(e, Step)]
        assert steps == list(range(61))


def test_a_job_cancelled_while_it_waited_does_not_come_back(settings: Settings) -> None:
    with running(settings) as engine:
        long, waiting = engine.submit(replace(ASKED, steps=400)), engine.submit(ASKED)
        stepping(long, 2)
        waiting.cancel()
    with running(settings) as engine:
        assert engine.job(waiting.id).state is JobState.CANCELLED
        assert [job.id for job in engine.jobs() if not job.state.is_over] == [long.id]
        engine.job(long.id).cancel()


def test_kill_9_in_the_middle_resumes_to_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    with running(settings) as engine:
        expected = engine.submit(replace(ASKED, steps=300))
        assert expected.wait(PATIENCE)
    script = (
        "import os, sys; from pathlib import Path\n"
        "from core.settings import default_settings\n"
        "from tests.core.engine.test_local import *\n"
        f"engine = LocalEngine(default_settings(Path({str(tmp_path)!r})), built_in())\n"
        "job = engine.submit(replace(ASKED, steps=300))\n"
        "stepping(job, 40)\n"
        "print(job.id, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with running(settings) as engine:
        job = engine.job(id)
        assert job.wait(PATIENCE)
        assert image(job) == image(expected)


def test_a_job_that_took_the_process_down_twice_is_set_aside(settings: Settings) -> None:
    queue = Queue(settings.data_dir / "queue.sqlite3")
    queue.add(Row("doomed", "local", ASKED, time.time(), JobState.RUNNING, 2, None))
    queue.close()
    with running(settings) as engine:
        job = engine.job("doomed")
        assert job.state is JobState.FAILED
        with pytest.raises(VitrineError, match="2 times"):
            list(job)


def test_an_engine_that_cannot_start_says_so_and_so_do_its_jobs(settings: Settings) -> None:
    with running(replace(settings, device="nonesuch")) as engine:
        job = engine.submit(ASKED)
        assert job.wait(PATIENCE)
        with pytest.raises(VitrineError, match="nonesuch"):
            list(job)
        assert "nonesuch" in engine.describe().problem


def test_a_data_folder_that_cannot_be_written_is_named(settings: Settings) -> None:
    settings.data_dir.write_text("a file where the folder should be")
    with pytest.raises(FileError, match="data can't be written"):
        LocalEngine(settings, built_in())


def test_a_run_that_cannot_be_recorded_is_made_all_the_same(settings: Settings) -> None:
    settings.data_dir.mkdir()
    settings.traces_dir.write_text("a file where the folder should be")
    with running(settings) as engine:
        job = engine.submit(ASKED)
        assert job.wait(PATIENCE)
        assert job.state is JobState.FINISHED
        assert image(job)
        assert [e.kind for e in job.events() if isinstance(e, Note)] == ["not recorded"]


def test_recordings_stay_within_their_quota(settings: Settings) -> None:
    with running(replace(settings, trace_quota_mb=0)) as engine:
        job = engine.submit(ASKED)
        assert job.wait(PATIENCE)
    assert not list(settings.traces_dir.glob("*.trace"))


def test_two_people_never_see_each_others_effects(settings: Settings) -> None:
    """Jobs of two checkpoints, mixed, come out as they do alone."""
    write_sd1(settings.models_dir / "Stable-diffusion/other.safetensors", other_weights())
    asked = [ASKED, replace(ASKED, checkpoint="other", clip_skip=2), replace(ASKED, seed=9)]
    alone = []
    for request in asked:
        with running(settings) as engine:
            job = engine.submit(request)
            assert job.wait(PATIENCE)
            alone.append(image(job))
    with running(settings) as engine:
        engine.pause(True)
        jobs = [engine.submit(request, f"owner {i}") for i, request in enumerate(asked)]
        engine.pause(False)
        assert all(job.wait(PATIENCE) for job in jobs)
    assert [image(job) for job in jobs] == alone
    assert alone[0] != alone[1]


def other_weights() -> dict[str, Tensor]:
    return {name: tensor * 1.1 for name, tensor in sd1_tensors().items()}


def test_a_pause_and_an_order_outlast_the_process(settings: Settings) -> None:
    with running(settings) as engine:
        engine.pause(True)
        first, second = engine.submit(ASKED, "me"), engine.submit(ASKED, "me")
        engine.arrange([second.id, first.id], "me")
        assert engine.place(first) == 1
        with pytest.raises(RequestError):
            engine.arrange([first.id], "somebody else")
    with running(settings) as engine:
        assert engine.is_paused()
        assert engine.place(engine.job(first.id)) == 1
        engine.pause(False)
        assert engine.job(first.id).wait(PATIENCE)


KILLED = """
import os, sys, threading, time
from pathlib import Path
from core.settings import default_settings
from tests.core.engine.test_local import *
import core.engine.local as local
from core.engine.queue import Queue
at, point = int(sys.argv[2]), sys.argv[3]
seen = 0
def die(*_): os.kill(os.getpid(), 9)
def counted(function, after):
    def call(*a, **k):
        global seen
        if not after and seen == at: die()
        result = function(*a, **k)
        if after and seen == at: die()
        seen += 1
        return result
    return call
if point == "publish": Job.publish = counted(Job.publish, False)
if point == "begin": Queue.begin = counted(Queue.begin, True)
if point == "end": Queue.end = counted(Queue.end, False)
engine = LocalEngine(default_settings(Path(sys.argv[1])), built_in())
for job in engine.jobs():
    job.wait(60)
time.sleep(1)
"""


def killed(folder: Path, at: int, point: str) -> None:
    """An engine over the queue in `folder` that is killed at the `at`-th such point."""
    command = [sys.executable, "-c", KILLED, str(folder), str(at), point]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "at"),
    [("begin", 0), *(("publish", n) for n in range(11)), ("end", 0)],
)
def test_kill_9_at_each_step_resumes_to_the_same_bytes(
    settings: Settings, tmp_path: Path, point: str, at: int
) -> None:
    """Two images of three steps each; the process dies before the n-th event is told."""
    with running(settings) as engine:
        expected = engine.submit(replace(ASKED, images=2))
        assert expected.wait(PATIENCE)
    wanted = [e.image.tobytes() for e in expected.events() if isinstance(e, ImageDone)]
    queue = Queue(settings.data_dir / "queue.sqlite3")
    queue.add(Row("doomed", "local", expected.request, time.time(), JobState.WAITING, 0, None))
    queue.close()
    killed(tmp_path, at, point)
    with running(settings) as engine:
        job = engine.job("doomed")
        assert job.wait(PATIENCE)
        assert job.state is JobState.FINISHED
        made = {e.index: e.image.tobytes() for e in job.events() if isinstance(e, ImageDone)}
        assert [made[0], made[1]] == wanted
