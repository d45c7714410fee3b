"""Workers on Ray that capture windows of rows, each in a process of its own, while one process commits them in order.

A worker writes what it made as a Lance fragment, which nobody sees until it is committed; so one that dies loses its
window alone, and the window is done again. The driver reads, hands out, and commits; it holds few windows at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import lance.fragment
import torch

from taughtby.data.example import Example
from taughtby.errors import ModelError, OptionError, machine_fault
from taughtby.index.pipeline import CapturePipeline, WindowProgress, WindowResult
from taughtby.index.scheduler import Home, Scheduler, Skipped, WorkerHandle, WrittenWindow, ray
from taughtby.index.storage import address
from taughtby.index.writer import Writer
from taughtby.models.model import load_model
from taughtby.models.paths import absolute_name

STORE = 2**28  # bytes of shared memory for a cluster of this machine, which windows on their way take


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to do what the driver would."""

    work: CapturePipeline  # without its model
    model: dict[str, Any]  # for `load_model`
    fingerprint: dict[str, str | None]
    rows: str  # where rows.lance lies


class Worker:
    """The part that runs elsewhere: it loads the model once, and captures the windows it is given."""

    def load(self, recipe: WorkerSpec) -> Home:
        """Be ready; the process by which it can be ended."""
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # Ray's word for its share of the cores
        model = load_model(**recipe.model)
        if model.fingerprint != recipe.fingerprint:
            do = "let its folder be the same on every node, or give a hub id"
            raise ModelError(f"a worker finds another model at {model.name}", got=str(model.fingerprint), do=do)
        self.recipe, self.work = recipe, replace(recipe.work, model=model)
        return Home.here()

    def window(self, rows: Sequence[Example]) -> Iterator[WindowProgress | WrittenWindow]:
        """Each step as it begins, and at last what was written."""
        for told in self.work.window(rows):
            yield self._written(told) if isinstance(told, WindowResult) else told

    def _written(self, made: WindowResult) -> WrittenWindow:
        if made.table is None:
            return WrittenWindow([], None, made.skipped, made.tokens)
        parts = lance.fragment.write_fragments(made.table, self.recipe.rows)
        return WrittenWindow(list(parts), made.table.schema, made.skipped, made.tokens)


class RayPool:
    """Workers on a Ray cluster, for as long as the block lasts.

    `address` is `local` for a cluster of this machine's own, else `auto` or HOST:PORT of one that runs, seen from one
    of its nodes. `workers`, if not given, are as many as there are GPUs, else half as many as cores. `say` is told how
    many tokens were read.
    """

    def __init__(
        self,
        address: str = "local",
        workers: int | None = None,
        *,
        device: str = "auto",
        quantize: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        if address.startswith("ray://"):
            do = "run it on the cluster: ray job submit --address … -- taughtby index build … --ray auto"
            raise OptionError("Ray's client cannot stream what workers tell", got=f"--ray {address}", do=do)
        self.address, self.asked, self.device, self.quantize, self.say = address, workers, device, quantize, say
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            with self.stack:
                self._connect()
                self.stack = self.stack.pop_all()
        there = ray.cluster_resources()
        gpus, cores = (0 if self.device == "cpu" else int(there.get("GPU", 0))), int(there.get("CPU", 1))
        nodes = sum("GPU" in node["Resources"] for node in ray.nodes() if node["Alive"])
        self.workers = self.asked or (nodes if gpus and self.device == "map" else gpus) or max(1, cores // 2)
        self.fast = gpus > 0
        share = {"num_gpus": _part(gpus, self.workers)} if gpus else {"num_cpus": _part(cores, self.workers)}
        self.options = {"num_cpus": 1, **share, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def _connect(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        _hush()
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            folder = self.stack.enter_context(
                tempfile.TemporaryDirectory(prefix="taughtby-ray-", ignore_cleanup_errors=True)
            )
            cores = len(os.sched_getaffinity(0))
            quiet |= {"num_cpus": cores, "object_store_memory": STORE, "include_dashboard": False, "_temp_dir": folder}
            self.stack.enter_context(_loopback())
        host, _, port = self.address.rpartition(":")
        try:
            if host:  # Ray itself tries for a minute and a half
                socket.create_connection((host, int(port)), timeout=10).close()
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # that Lance does not survive forks
                ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError) as fault:
            what = f"no Ray cluster at {self.address}"
            do = "give auto on a node of a cluster that runs (ray status), HOST:PORT, or nothing for one of its own"
            if lack := machine_fault(fault):
                what, do = f"{what}: {lack[0]}", lack[1]
            raise OptionError(what, got=str(fault)[:300], do=do) from fault
        self.stack.callback(ray.shutdown)

    def fill(
        self, writer: Writer, windows: Iterator[list[Example]], work: CapturePipeline, tell: Callable[[int], None]
    ) -> Skipped:
        """Give the writer what it has not yet of these windows, in their order; the rows that were skipped."""
        model = work.model
        given = {"name": absolute_name(model.name), "adapter": [absolute_name(one) for one in model.adapters] or None,
                 "base": model.base_name and absolute_name(model.base_name), "dtype": str(model.dtype).removeprefix("torch."),
                 "device": self.device, "quantize": self.quantize}  # fmt: skip
        where = writer.path.resolve() if isinstance(writer.path, Path) else writer.path
        bare: Any = None
        recipe = WorkerSpec(replace(work, model=bare), given, model.fingerprint, address(where / "rows.lance"))

        def start() -> WorkerHandle:
            actor = ray.remote(**self.options)(Worker).remote()
            return WorkerHandle(actor, actor.load.remote(recipe))

        writer.alone = False
        try:
            return Scheduler(start, self.workers, writer, windows, tell, self.say).run()
        finally:
            writer.alone = True


def _part(whole: int, workers: int) -> float:
    """What each of the workers gets of some devices: so many whole ones, or a part of one."""
    return whole // workers or int(10_000 * whole / workers) / 10_000


def _hush() -> None:
    """Ray prints each worker's death on standard output; here that is told otherwise, or mended."""
    worker: Any = ray._private.worker
    worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def _loopback() -> Generator[None]:
    """Let a cluster of this machine's own listen on loopback alone, as Ray does where it cannot have other machines."""
    constants: Any = ray._private.ray_constants
    name, was = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = was
        del os.environ[name]
