"""Several processes for one run. The main one asks, learns and writes; helpers draw and differentiate micro-batches.

`map` is the only thing they do together: micro-batch k goes to process k mod N, and results come back in order, so that
what is computed from them does not depend on N. Between two maps helpers wait for a key in the process group's store,
with no collective in flight: a person may take a day. They keep no state; every map sends the trained parameters along.

If the processes share one denoiser (`distributed.shard`), a task is a collective, too: all of them run the same one at
the same time, whether or not they have an item of their own. If one fails in the middle of it, the others wait there
for as long as an exchange may take, and then the run is over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, Protocol
from uuid import uuid4

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.device_mesh import DeviceMesh

from hero.config import Config, merge, validate
from hero.errors import ConfigError, HeroError, TrainingError

__all__ = ["Alone", "Helper", "Work", "Workers", "connect", "is_helper", "launch", "process_count"]

Work = Callable[[Any], Any]
"""What is done with one micro-batch: a function from an item to a result; both are pickled between processes."""

_PAUSES = (0.001, 1.0)
"""Seconds between two checks for a key: at first, and at most."""

_SHARDING = {"cpu": "gloo", "cuda": "nccl"}
"""Device → the backend that moves the parts of a sharded denoiser."""

_STOP = "stop"
_runs = count()
"""Numbers the runs that one set of processes trains one after another; every process counts the same way."""


class Workers(Protocol):
    """The processes of a run.

    Attributes:
        size: their number.
        mesh: the device mesh over which they share the denoiser; None where each holds all of it.
    """

    size: int
    mesh: DeviceMesh | None

    def prepare(self, tasks: Mapping[str, Work], parameters: Sequence[torch.nn.Parameter]) -> None:
        """To be called once, before `map`.

        Args:
            tasks: by name; the same as in the helpers.
            parameters: what is trained; the same, in the same order, as in the helpers.
        """
        ...

    def map(self, task: str, items: Sequence[Any]) -> Iterator[Any]:
        """The results of `task` on `items`, in order, as they come in; all with the parameters as they are now.

        Raises:
            HeroError, OutOfMemoryError: whatever the task raises, in any process.
            TrainingError: another process failed, ended, or did not answer in time.
        """
        ...

    def stop(self) -> None:
        """Releases the helpers."""
        ...


class Alone:
    """One process."""

    size = 1
    mesh: DeviceMesh | None = None

    def __init__(self, tasks: Mapping[str, Work] | None = None) -> None:
        self._tasks = tasks or {}

    def prepare(self, tasks: Mapping[str, Work], parameters: Sequence[torch.nn.Parameter]) -> None:
        self._tasks = tasks

    def map(self, task: str, items: Sequence[Any]) -> Iterator[Any]:
        return map(self._tasks[task], items)

    def stop(self) -> None:
        return None


def process_count() -> int:
    """How many processes this one was started with, by torchrun, `accelerate launch` or `--processes`."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_helper() -> bool:
    """Whether another process is the main one."""
    return process_count() > 1 and int(os.environ["RANK"]) != 0


def connect(config: Config) -> Workers:
    """The main process's workers: itself and any helpers, which now load the model of `config`, too.

    Raises:
        ConfigError: started under DeepSpeed or Megatron-LM, or with settings that do not work with FSDP.
        TrainingError: this is a helper, or the others do not answer.
    """
    if process_count() == 1:
        return Alone()
    if is_helper():
        raise TrainingError("only the main process trains a run; the others call hero.run.state.help_main()")
    return _Main(config)


@dataclass(frozen=True)
class _Failure:
    """Takes the place of a result. `error` is one that the caller handles; None for others."""

    process: int
    text: str
    error: HeroError | torch.OutOfMemoryError | None

    def raise_(self) -> None:
        if self.error is not None:
            raise self.error
        raise TrainingError(f"process {self.process} failed: {self.text}")


class _Link:
    """The store and the gloo group that the processes of a run talk through."""

    def __init__(self) -> None:
        for name in ("DEEPSPEED", "MEGATRON_LM"):
            if _accelerate_uses(name):
                raise ConfigError(
                    f"accelerate is configured for {name}, which shards models in a way that is not supported; "
                    "use a plain multi-GPU configuration or FSDP, see docs/distributed.md"
                )
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
        self.rank, self.size = state.process_index, state.num_processes
        # A separate connection: waiting on it must not block the process group's.
        store: Any = dist.distributed_c10d._get_default_store()
        self.store = PrefixStore(f"hero/{next(_runs)}", store.clone())
        self.device = state.device.type
        self.group: Any = None
        self.mesh: DeviceMesh | None = None

    def open_groups(self, config: Config) -> None:
        """Opens a group for exchanges and, if the denoiser is shared, another for its weights.

        Raises:
            ConfigError: it cannot be shared on this device.
        """
        timeout = timedelta(seconds=config.distributed.collective_timeout)
        # gloo on any device: what is exchanged lies on the CPU and is summed in a fixed order.
        self.group = dist.new_group(backend="gloo", timeout=timeout)
        if config.distributed.shard:
            device = "cpu" if config.model.device == "cpu" else self.device
            if device not in _SHARDING:
                raise ConfigError(f"distributed.shard is for {' and '.join(_SHARDING)}, not for {device}")
            group: Any = dist.new_group(backend=_SHARDING[device], timeout=timeout)
            self.mesh = DeviceMesh.from_group(group, device)

    def wait_for(self, key: str) -> str:
        """The value of `key`, however long it takes to be set."""
        pause = _PAUSES[0]
        try:
            while not self.store.check([key]):  # not `wait`, which warns on stderr at every timeout
                time.sleep(pause)
                pause = min(2 * pause, _PAUSES[1])
            return self.store.get(key).decode()
        except dist.DistNetworkError as error:
            raise TrainingError(f"process {self.rank} has lost the main process: {_first_line(error)}") from None

    def broadcast(self, value: Any = None) -> Any:
        """`value` of the main process."""
        box = [value]
        with self._failures():
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Everybody's `value`, in the order of ranks; [] on helpers."""
        values: list[Any] = [None] * self.size if self.rank == 0 else []
        with self._failures():
            dist.gather_object(value, values or None, dst=0, group=self.group)
        return values

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> TrainingError:
        """What a failed exchange means: another process has reported what happened to it, or has ended."""
        with suppress(dist.DistError):
            if self.store.check(["failed"]):
                return TrainingError(self.store.get("failed").decode())
        return TrainingError(
            f"another of the {self.size} processes ended or did not answer in time ({_reason(error)}); "
            "the last checkpoint is intact, `hero resume` continues from it"
        )

    def attempt(self, task: Work, item: Any) -> Any:
        """The result, or what went wrong: the exchange that the others are waiting for takes place in any case.

        Raises:
            TrainingError: it went wrong, here or elsewhere, in the middle of a collective; no exchange is possible now.
        """
        try:
            return task(item)
        except HeroError as error:  # raised about results, after all passes through the model
            return _Failure(self.rank, str(error), error)
        except Exception as error:
            if self.mesh is not None:
                raise self._out_of_step(error) from error
            if isinstance(error, torch.OutOfMemoryError):
                return _Failure(self.rank, str(error), error)
            return _Failure(self.rank, f"{type(error).__name__}: {_first_line(error)}", None)

    def _out_of_step(self, error: Exception) -> TrainingError:
        """What went wrong; if it went wrong here, the others are told."""
        if _in_collective(error):
            return self._lost(error)
        problem = f"process {self.rank} failed: {type(error).__name__}: {_first_line(error)}"
        if isinstance(error, torch.OutOfMemoryError):
            problem = (
                f"process {self.rank} is out of memory, and with distributed.shard micro-batches are not halved; lower "
                "sampling.micro_batch (drawing) or update.micro_batch (learning)"
            )
        self.store.set("failed", problem)
        return TrainingError(problem)


class _Main:
    """The main process, which has a share of the work too."""

    def __init__(self, config: Config) -> None:
        self._link = _Link()
        self.size = self._link.size
        if _accelerate_uses("FSDP"):
            config = validate(merge(config.model_dump(), {"distributed": {"shard": True}}))
        self._commands = count()
        self._awaited = list(range(1, self.size))
        self._broken = False
        self._link.store.set("config", config.model_dump_json())
        self._link.open_groups(config)
        self.mesh = self._link.mesh

    def prepare(self, tasks: Mapping[str, Work], parameters: Sequence[torch.nn.Parameter]) -> None:
        self._tasks = tasks
        self._parameters = parameters

    def map(self, task: str, items: Sequence[Any]) -> Iterator[Any]:
        self._check_in_step()
        while self._awaited:  # no collective yet: loading a model may take any length of time
            process = self._awaited[0]
            if problem := self._link.wait_for(f"ready/{process}"):
                raise TrainingError(f"process {process}: {problem}")
            del self._awaited[0]
        self._command(task)
        self._broadcast(([p.detach().cpu() for p in self._parameters], list(items)))
        waves = iter(range(0, len(items), self.size))
        try:
            for start in waves:
                if self.mesh is not None:
                    self._broadcast(True)
                with self._breaking():
                    mine = self._link.attempt(self._tasks[task], items[start])
                results = self._gather(mine)
                for result in results[: len(items) - start]:
                    if isinstance(result, _Failure):
                        result.raise_()
                    yield result
        finally:
            for _ in waves:  # the rest is not needed
                if self._broken:
                    break
                if self.mesh is not None:
                    self._broadcast(False)
                    break
                self._gather(None)  # the helpers are already working on it

    def _check_in_step(self) -> None:
        if self._broken:
            raise TrainingError("the processes are out of step after a failure; `hero resume` continues the run")

    def _command(self, name: str) -> None:
        self._link.store.set(f"command/{next(self._commands)}", name)

    def _broadcast(self, value: Any) -> None:
        with self._breaking():
            self._link.broadcast(value)

    def _gather(self, value: Any) -> list[Any]:
        with self._breaking():
            return self._link.gather(value)

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """After an exchange that failed or was interrupted, the processes are no longer in step."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def stop(self) -> None:
        if not self._broken or self.mesh is not None:  # see Helper.serve
            self._command(_STOP)
        self._broken = True


class Helper:
    """A process that works for the main one.

    Attributes:
        config: the run's, as the main process has it.
        mesh: see `Workers`.
    """

    def __init__(self) -> None:
        self._link = _Link()
        self.config = validate(json.loads(self._link.wait_for("config")))
        self._link.open_groups(self.config)
        self.mesh = self._link.mesh

    def serve(self, tasks: Mapping[str, Work], parameters: Sequence[torch.nn.Parameter]) -> None:
        """Does what the main process asks for, until it says that there is nothing more to do.

        Raises:
            TrainingError: the main process has ended.
        """
        self._ready("")
        for number in count():
            name = self._link.wait_for(f"command/{number}")
            if name == _STOP:
                return
            values, items = self._link.broadcast()
            with torch.no_grad():
                for parameter, value in zip(parameters, values, strict=True):
                    parameter.copy_(value)
            try:
                self._work(tasks[name], items)
            except TrainingError:
                if self.mesh is None:
                    raise
                # Ending here would end the main process before it can report what went wrong; it sends no more work.

    def _work(self, task: Work, items: Sequence[Any]) -> None:
        for start in range(0, len(items), self._link.size):
            if self.mesh is not None and not self._link.broadcast():
                return  # the rest is not needed
            mine = start + self._link.rank
            if mine < len(items):
                self._link.gather(self._link.attempt(task, items[mine]))
            else:
                if self.mesh is not None:  # the others cannot compute theirs without this one
                    self._link.attempt(task, items[-1])
                self._link.gather(None)

    def refuse(self, problem: str) -> None:
        """Tells the main process why this one cannot serve."""
        self._ready(problem)

    def _ready(self, problem: str) -> None:
        self._link.store.set(f"ready/{self._link.rank}", problem)


def _accelerate_uses(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def _in_collective(error: Exception) -> bool:
    """Whether it was raised within torch.distributed, and not by running out of memory."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].startswith("torch.distributed") and not isinstance(error, torch.OutOfMemoryError)


def _reason(error: BaseException) -> str:
    """gloo's message without its source location, and without what follows the first sentence."""
    return re.sub(r"^\[[^]]*\] ", "", _first_line(error)).partition(". ")[0]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs `python ARGUMENTS` in `processes` processes of this machine, as torchrun does; returns the exit status.

    When one of them fails, the others are ended too. A process that was ended by a signal cannot report it, so it is
    reported here.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"hero: process {rank} of {processes} was ended by signal {-failure.exitcode}, and the others with it; "
                "`hero resume` continues from the last checkpoint",
                file=sys.stderr,
            )
            return 1
        return int(failure.exitcode)
    except (SignalException, KeyboardInterrupt):
        return 130
    return 0
