"""Work that several processes share, each with its part of the processor's cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, Protocol, TypeVar

import torch

from hero.console import quiet_libraries

__all__ = ["Job", "Say", "shared_out"]

Say = Callable[[str], None]
_PAUSE = 0.5
"""Seconds between two looks at what the processes have said."""


class Job(Protocol):
    """A piece of work that can be sent to another process."""

    def do(self, say: Say) -> Any:
        """The result; `say` is called with lines that tell how far it is."""
        ...


_AJob = TypeVar("_AJob", bound=Job)


def shared_out(jobs: Sequence[_AJob], processes: int, say: Say) -> Iterator[tuple[_AJob, Any]]:
    """Each job with its result, as they are known; begun in order. With one process, this one does them.

    If one fails, no other is begun, and those that run are ended.
    """
    if processes == 1:
        for job in jobs:
            yield job, job.do(say)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    spawn = multiprocessing.get_context("spawn")
    earlier = multiprocessing.active_children()
    said = spawn.SimpleQueue()
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start, initargs=(threads, said))
    try:
        waiting = {pool.submit(_do, job): job for job in jobs}
        while waiting:
            done, _ = wait(waiting, timeout=_PAUSE, return_when=FIRST_COMPLETED)
            while not said.empty():
                say(said.get())
            for future in done:
                yield waiting.pop(future), future.result()
    except BaseException:
        # A process would start the next job. Each job goes on from what it has written, so that nothing is lost.
        for process in multiprocessing.active_children():
            if process not in earlier:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_said: Any = None
"""The queue of this process, if it is one of several."""


def _start(threads: int, said: Any) -> None:
    global _said
    _said = said
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends this process
    torch.set_num_threads(threads)
    quiet_libraries()


def _do(job: Job) -> Any:
    return job.do(_said.put)
