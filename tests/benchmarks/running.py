"""What a run costs beside its networks: text, previews, recording, events; and a click in whole.

The real engine runs; the networks' own time is taken by hooks on torch's modules.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Asked, Row, in_child

PROMPT = "a red apple on a blue background"


def rows(asked: Asked) -> Iterator[Row]:
    yield from _of(None, asked, "the shipped model")
    if asked.checkpoint is not None:
        yield from _of(asked.checkpoint, asked, asked.checkpoint.stem)
    if not asked.short:
        from tests.benchmarks.models import written

        yield from _of(written(asked.folder), asked, "SD 1.5, 256², 2 steps", width=256, steps=2)


def _of(file: Path | None, asked: Asked, name: str, **changes: int) -> Iterator[Row]:
    given: dict[str, Any] = {
        "file": file and str(file),
        "folder": str(asked.folder),
        "changes": changes,
    }
    for threads in asked.threads:
        found = in_child("running:clicked", threads, **given, rounds=asked.rounds)
        goal = 5.0 if file is None and threads == 2 else None
        yield Row(f"click to picture, warm: {name}", found["wall"], threads=threads, most=goal)
        if threads == 1:
            yield Row(
                f"the same request again, outside the networks: {name}",
                [1000 * s for s in found["beside"]],
                unit="ms",
                threads=threads,
                most=30,
                note="processor time",
            )
            calls = (
                f"{found['rows_guided']} of the network at CFG 7, {found['rows_plain']} at CFG 1"
            )
            yield Row(
                f"rows at CFG 1 for each at CFG 7: {name}",
                [found["rows_plain"]],
                [found["rows_guided"]],
                "rows",
                1,
                0.5,
                calls,
                other="at CFG 7",
            )
    share = in_child("running:watched", 1, **given, rounds=asked.rounds)
    yield Row(
        f"preview, recording and events, of a step: {name}",
        [100 * s for s in share["shares"]],
        unit="%",
        threads=1,
        most=3,
        note=f"{1000 * share['beside']:.2f} ms of {1000 * share['step']:.0f} ms in the U-Net",
        more=share,
    )


# --- in a child ----------------------------------------------------------------------------------


@dataclass
class Networks:
    """What U-Net and decoder were asked, while it lasts."""

    rows: int = 0
    """Latents that went through the U-Net."""
    unet: float = 0.0
    """Processor seconds; of the decoder too."""
    decoder: float = 0.0
    _began: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        from torch.nn.modules import module as torch_modules

        from core.nn.unet import UNet
        from core.nn.vae import Decoder

        def before(module: Any, given: Any) -> None:
            if isinstance(module, UNet | Decoder):
                self.rows += len(given[2]) if isinstance(module, UNet) else 0
                self._began.append(time.process_time())

        def after(module: Any, given: Any, answer: Any) -> None:
            if isinstance(module, UNet):
                self.unet += time.process_time() - self._began.pop()
            elif isinstance(module, Decoder):
                self.decoder += time.process_time() - self._began.pop()

        hooks = [
            torch_modules.register_module_forward_pre_hook(before),
            torch_modules.register_module_forward_hook(after),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextlib.contextmanager
def _engine(file: str | None, folder: str) -> Iterator[Any]:
    """The real one, with outputs and recordings in a folder that goes afterwards."""
    from core.engine.local import LocalEngine
    from core.registry import built_in
    from tests.benchmarks.models import settings_for

    with tempfile.TemporaryDirectory() as own:
        settings = settings_for(None if file is None else Path(file), Path(folder))
        settings = replace(settings, data_dir=Path(own) / "data", outputs_dir=Path(own) / "made")
        engine = LocalEngine(settings, built_in())
        try:
            yield engine
        finally:
            engine.close()


def _request(engine: Any, changes: dict[str, Any]) -> Any:
    from core.request import GenerationRequest

    default = engine.catalog.checkpoint(engine.settings.checkpoint)
    request = replace(GenerationRequest(prompt=PROMPT, seed=1), **dict[str, Any](default.defaults))
    sides: dict[str, Any] = {"height": changes["width"]} if "width" in changes else {}
    return replace(request, checkpoint=default.name, **changes, **sides)


def _made(engine: Any, request: Any) -> float:
    """Seconds from asking to the picture."""
    began = time.perf_counter()
    job = engine.submit(request)
    job.wait()
    if job.error is not None:
        raise job.error
    return time.perf_counter() - began


def clicked(file: str | None, folder: str, changes: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Seconds of the same request again and again, and what of it is not in the networks."""
    with _engine(file, folder) as engine:
        request = _request(engine, changes)
        _made(engine, request)
        wall, beside = [], []
        for _ in range(rounds):
            networks, cpu = Networks(), time.process_time()
            with networks.counted():
                wall.append(_made(engine, request))
            beside.append(time.process_time() - cpu - networks.unet - networks.decoder)
        counts = {}
        for name, scale in (("rows_plain", 1.0), ("rows_guided", 7.0)):
            networks = Networks()
            with networks.counted():
                _made(engine, replace(request, cfg_scale=scale, steps=2))
            counts[name] = networks.rows
    return {"wall": wall, "beside": beside, **counts}


def watched(file: str | None, folder: str, changes: dict[str, Any], rounds: int) -> dict[str, Any]:
    """What one step costs a watched and recorded run beside the step itself.

    The events of one real run go through recording, job and the page's reader (its messages and
    frames), and by turns through nothing.
    """
    from core.engine.job import Job, JobState
    from core.events import Step
    from core.request import Record
    from core.trace import recorded
    from tests.benchmarks.harness import alternated
    from webui.show import Show
    from webui.stream import framed

    with _engine(file, folder) as engine:
        request = replace(_request(engine, changes), record=Record.STEPS)
        _made(engine, request)
        networks, job = Networks(), engine.submit(request)
        with networks.counted():
            job.wait()
        events = job.events()
    steps = sum(isinstance(event, Step) for event in events)
    sent: list[bytes] = []

    def on() -> None:
        job = Job(request, "bench")
        show = Show(job)
        with tempfile.TemporaryDirectory() as own:
            for event in recorded(iter(events), Path(own) / "run.trace"):
                job.publish(event)
                latest = show.latest()
                sent[:] = [framed(key, frame) for key, frame in latest.items()]
            job.end(JobState.FINISHED)
            show.settle(60)

    def off() -> None:
        for _ in iter(events):
            pass

    taken = alternated({"on": on, "off": off}, rounds)
    pairs = zip(taken["on"], taken["off"], strict=True)
    beside = [(with_all.cpu - without.cpu) / steps for with_all, without in pairs]
    step = networks.unet / (steps - 1)  # the first event is the noise
    middle = sorted(beside)[len(beside) // 2]
    return {"shares": [b / step for b in beside], "beside": middle, "step": step}
