"""How all benchmarks measure: by turns, in fresh processes, medians and their ratios.

Two candidates take turns (A B A B …), so that a busy machine slows both alike; the first round is
for warming up and does not count. One thread is judged by its processor seconds, which others'
work hardly changes, two by the wall clock.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import mmap
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OURS, THEIRS, COMFYUI = "ours", "diffusers", "ComfyUI"
PLAIN = {"THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "0")}
"""Torch's own way with memory, unless whoever measures says otherwise: read before core is."""
WORKING, LOADING = 3.0, 7.0
"""GB that a work, and loading a model, may want anew; see `backed`."""


@dataclass(frozen=True)
class Asked:
    """What every case is told."""

    folder: Path
    """Where large files are kept between runs."""
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5
    short: bool = False
    """A few minutes at most: what needs a file of 2 GB is left out."""
    checkpoint: Path | None = None
    """A checkpoint of the user's own, measured beside the one that ships."""
    comfyui: Path | None = None
    """A checkout of ComfyUI to measure against as well."""
    comfyui_python: str = sys.executable
    """The Python that has what it needs."""
    device: str = "cuda"
    """Of the case `gpu`."""
    tiny: bool = False
    """Whether that case runs with small networks, to see whether it runs."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured of ours, and of the other by turns."""

    what: str
    ours: Sequence[float]
    """One number a round."""
    theirs: Sequence[float] = ()
    unit: str = "s"
    threads: int | None = None
    most: float | None = None
    """The goal: of the ratio, or of ours where it is not measured against another."""
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further figures, for the JSON."""
    other: str = THEIRS
    is_ratio: bool = False
    """Whether the goal is one of the ratio alone, and none while there is no other."""

    @property
    def ratio(self) -> float | None:
        """Of the medians."""
        if not self.theirs:
            return None
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and highest ratio of two that took turns."""
        if not self.theirs:
            return None
        ratios = [a / b for a, b in zip(self.ours, self.theirs, strict=True)]
        return min(ratios), max(ratios)

    @property
    def goal(self) -> float | None:
        """What counts of `most`."""
        return None if self.is_ratio and not self.theirs else self.most

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None: there is none."""
        if self.goal is None:
            return None
        reached = self.ratio if self.theirs else statistics.median(self.ours)
        return reached is not None and reached <= self.goal

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "spread": self.spread, "is_met": self.is_met}


@dataclass(frozen=True)
class Spent:
    """What one piece of work took, in seconds."""

    cpu: float
    wall: float


def spent(work: Callable[[], object]) -> Spent:
    """Of this process, all its threads."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def alternated(
    works: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1
) -> dict[str, list[Spent]]:
    """Every work in its turn, `rounds` times, after `warm` rounds that do not count."""
    taken: dict[str, list[Spent]] = {name: [] for name in works}
    for number in range(warm + rounds):
        for name, work in works.items():
            one = spent(work)
            if number >= warm:
                taken[name].append(one)
    return taken


def seconds(times: Sequence[Mapping[str, float]] | Sequence[Spent], threads: int) -> list[float]:
    """What a row shows: of one thread the processor's seconds, of several the clock's."""
    which = "cpu" if threads == 1 else "wall"
    return [t[which] if isinstance(t, Mapping) else getattr(t, which) for t in times]


def unit(threads: int) -> str:
    """Of those seconds."""
    return "CPU s" if threads == 1 else "s"


# --- memory --------------------------------------------------------------------------------------


def forget_peak() -> None:
    """From here on VmHWM counts anew, where the kernel allows that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def memory() -> tuple[float, float]:
    """(resident, peak since `forget_peak`) of this process, in GB of 10⁹ bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import psutil

        resident = psutil.Process().memory_info().rss / 1e9
        return resident, resident
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status, re.MULTILINE))
    return int(found["VmRSS"]) * 1024 / 1e9, int(found["VmHWM"]) * 1024 / 1e9


def backed(gigabytes: float) -> None:
    """Touches so much free memory and gives it back, so that a virtual machine's host holds it.

    Where free memory is handed back to the host (free page reporting), the next to use it waits for
    the host, which has nothing to do with what is measured: here 2 s a gigabyte instead of 0.05.
    """
    size = int(gigabytes * 1e9)
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    with mmap.mmap(-1, size, **flags) as block:
        if hasattr(block, "madvise") and hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        for place in range(0, size, mmap.PAGESIZE):
            block[place] = 1


def reading(path: Path, load: Callable[[], tuple[Any, ...]]) -> dict[str, float]:
    """Seconds from a file in the system's cache to networks, and the peak above what was there
    before, in terms of their weights."""
    with path.open("rb", buffering=0) as file:  # a busy machine may have forgotten it
        buffer = bytearray(2**22)
        while file.readinto(buffer):
            pass
    backed(LOADING)
    before = memory()[0]
    forget_peak()
    parts: list[Any] = []
    taken = spent(lambda: parts.extend(load()))
    peak = memory()[1] - before
    weights = sum(p.numel() * p.element_size() for part in parts for p in part.parameters()) / 1e9
    return {**asdict(taken), "peak": peak / weights, "weights": weights}


# --- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """What a candidate runs, in a process of its own."""

    function: str
    """"module:name" of this folder."""
    given: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, *how: str) -> list[str]:
        return [
            self.python, "-m", "tests.benchmarks.harness", *how, self.function,
            json.dumps(self.given),
        ]  # fmt: skip

    def environment(self, threads: int) -> dict[str, str]:
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        return {**os.environ, **limits, **quiet, **self.variables}


def programs(
    asked: Asked, ours: str, theirs: str, comfyui: str | None = None, **given: Any
) -> dict[str, Program]:
    """The candidates that are there. The others keep torch's own way with memory, which ours
    changes where core is imported."""
    found = {OURS: Program(ours, given)}
    if has_diffusers():
        found[THEIRS] = Program(theirs, given, variables=PLAIN)
    if comfyui is not None and asked.comfyui is not None:
        more = {**given, "comfyui": str(asked.comfyui)}
        found[COMFYUI] = Program(comfyui, more, asked.comfyui_python, PLAIN)
    return found


def has_diffusers() -> bool:
    return importlib.util.find_spec("diffusers") is not None


def in_child(function: str | Program, threads: int = 1, **given: Any) -> Any:
    """What `function` ("module:name" of this folder) answers in a process of its own, as JSON.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    program = function if isinstance(function, Program) else Program(function, given)
    done = subprocess.run(
        program.words(),
        cwd=ROOT,
        env=program.environment(threads),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{program.function} failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def children_alternated(
    programs: Mapping[str, Program], rounds: int, threads: int = 1, warm: int = 1
) -> dict[str, list[Any]]:
    """As `alternated`, each time in a fresh process."""
    answers: dict[str, list[Any]] = {name: [] for name in programs}
    for number in range(warm + rounds):
        for name, program in programs.items():
            answer = in_child(program, threads)
            if number >= warm:
                answers[name].append(answer)
    return answers


class Candidate:
    """A process that has made ready what is measured, and works when it is told to.

    Its program's function answers the works by their names; what they give back is a tensor, or
    nothing.

    Raises:
        RuntimeError, here and in `did`: the process failed; with the end of what it said.
    """

    def __init__(self, program: Program, threads: int) -> None:
        self._function = program.function
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            program.words("--works"),
            cwd=ROOT,
            env=program.environment(threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.works: frozenset[str] = frozenset(self._answer())

    def did(self, work: str, answer_to: Path | None = None, follows: bool = False) -> Spent:
        """How long one work took; its answer is written as numpy's file, where one is named.

        Args:
            follows: the same work is done before it, and does not count.
        """
        assert self._process.stdin is not None
        told = [work, answer_to and str(answer_to), follows]
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(told), file=self._process.stdin)
            self._process.stdin.flush()
        return Spent(**self._answer())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            raise RuntimeError(f"{self._function} failed: {self._said.read().strip()[-2000:]}")
        return json.loads(line)


@contextlib.contextmanager
def candidates(programs: Mapping[str, Program], threads: int) -> Iterator[dict[str, Candidate]]:
    """All at once, each in its process, until the block is left."""
    with contextlib.ExitStack() as stack:
        running: dict[str, Candidate] = {}
        for name, program in programs.items():
            running[name] = Candidate(program, threads)
            stack.callback(running[name].close)
        yield running


def works_told(function: Callable[..., Mapping[str, Callable[[], Any]]], given: str) -> None:
    """In a candidate's process: says what it can do, then does what it is told, a line each, and
    answers with the times."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed
    works = function(**json.loads(given))
    print(json.dumps([*works]), file=told, flush=True)
    for line in sys.stdin:
        work, answer_to, follows = json.loads(line)
        backed(WORKING)
        if follows:
            works[work]()
        answers: list[Any] = []
        taken = spent(lambda work=work, answers=answers: answers.append(works[work]()))  # type: ignore[misc]
        if answer_to is not None:
            import numpy

            numpy.save(answer_to, answers[0].float().numpy())
        print(json.dumps(asdict(taken)), file=told, flush=True)


@dataclass(frozen=True)
class Compared:
    """One work, done by several candidates in turns."""

    first: Mapping[str, Spent]
    """What it took before anything was warm."""
    times: Mapping[str, Sequence[Spent]]
    differences: Mapping[str, float]
    """Of each other's answer from ours, relative to the largest number in it."""

    def rows(
        self, what: str, threads: int, most: float | None = None, note: str = ""
    ) -> Iterator[Row]:
        """A row for each other; the goal is against diffusers."""
        ours = seconds(self.times[OURS], threads)
        more = {"first": {name: asdict(one) for name, one in self.first.items()}}
        if len(self.times) == 1:
            yield Row(what, ours, (), unit(threads), threads, None, note, more)
        for name, times in self.times.items():
            if name == OURS:
                continue
            said = [note] if note else []
            if name in self.differences:
                said.append(f"answers differ by {self.differences[name]:.1e}")
            yield Row(
                what, ours, seconds(times, threads), unit(threads), threads,
                most if name == THEIRS else None, ", ".join(said), more, name,
            )  # fmt: skip


def compared(
    running: Mapping[str, Candidate], work: str, rounds: int, follows: bool = False
) -> Compared:
    """By every candidate that knows the work: once for its answer, then in turns.

    Args:
        follows: each follows on one that does not count, as steps do in a run: whoever waited while
            others had their turn finds other pages of memory.
    """
    import numpy

    able = {name: one for name, one in running.items() if work in one.works}
    first: dict[str, Spent] = {}
    answers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, one in able.items():
            place = Path(folder) / f"{name}.npy"
            first[name] = one.did(work, place)
            answers[name] = numpy.load(place)
    differences = {
        name: float(abs(answers[OURS] - theirs).max() / abs(theirs).max())
        for name, theirs in answers.items()
        if name != OURS
    }
    times: dict[str, list[Spent]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, one in able.items():
            times[name].append(one.did(work, follows=follows))
    return Compared(first, times, differences)


def main(*words: str) -> None:
    *how, function, given = words
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)
    if how:
        works_told(found, given)
    else:
        print(json.dumps(found(**json.loads(given))))


if __name__ == "__main__":
    main(*sys.argv[1:])
