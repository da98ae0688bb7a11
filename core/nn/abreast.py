"""Independent pieces of work side by side, each computed by one thread from first to last.

torch divides every single operation among its threads and waits for all of them after each. Where
many small ones follow one another, as in attention head by head, that waiting costs up to a quarter
of the time on two threads. Here every thread goes through pieces of its own. The calls of torch are
the same, so the answers are, and there are as many threads as torch would take.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def abreast(work: Callable[..., None], pieces: Iterable[tuple[Any, ...]]) -> None:
    """`work` of every piece; returns when all are done. Gradients do not flow through.

    Raises:
        whatever the first piece that fails raises; the others are done nevertheless.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        for piece in pieces:
            work(*piece)
        return
    inferring = torch.is_inference_mode_enabled()  # modes belong to a thread

    def done(piece: tuple[Any, ...]) -> None:
        with torch.inference_mode(inferring), torch.no_grad():
            work(*piece)

    waiting = [_workers(threads).submit(done, piece) for piece in pieces]
    failed = [error for future in waiting if (error := future.exception()) is not None]
    try:
        if failed:
            raise failed[0]
    finally:
        del failed, waiting  # else the error would hold this frame, and this frame the error


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """So many threads, each of which computes alone."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="abreast")
    ready = threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the number of all
        torch.set_num_threads(1)
        ready.wait()

    for future in [pool.submit(begin) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)  # what threads to come take over
    return pool
