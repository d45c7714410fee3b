"""Ray workers that capture windows of rows in separate processes, while the driver commits results in order.

A worker writes its result as Lance fragments, which are invisible until they are committed. If a worker dies, only its
window is repeated. The driver reads rows, assigns windows and commits, and holds a few windows in memory.
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
from taughtby.index.pipeline import CapturedWindow, CapturePipeline, WindowProgress
from taughtby.index.scheduler import Scheduler, Skipped, WorkerHandle, WorkerProcess, WrittenWindow, ray
from taughtby.index.storage import address
from taughtby.index.writer import Writer
from taughtby.models.model import load_model
from taughtby.models.paths import absolute_name

OBJECT_STORE = 2**28  # bytes of shared memory for windows in transit, on a local cluster


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to set up the driver's pipeline.

    Attributes:
        pipeline: The pipeline without its model.
        model: Arguments of `load_model`.
        fingerprint: The fingerprint that the loaded model must have.
        rows: The address of rows.lance.
    """

    pipeline: CapturePipeline
    model: dict[str, Any]
    fingerprint: dict[str, str | None]
    rows: str


class Worker:
    """The Ray actor: loads the model once, then captures windows."""

    def load(self, spec: WorkerSpec) -> WorkerProcess:
        """Load the model; return this process, so that the driver can kill it."""
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # Ray sets it to the worker's cores
        model = load_model(**spec.model)
        if model.fingerprint != spec.fingerprint:
            do = "give every node the same folder, or use a hub id"
            raise ModelError(f"a worker loaded a different model from {model.name}", got=str(model.fingerprint), do=do)
        self.rows, self.pipeline = spec.rows, replace(spec.pipeline, model=model)
        return WorkerProcess.current()

    def capture_window(self, rows: Sequence[Example]) -> Iterator[WindowProgress | WrittenWindow]:
        """Capture rows; yield progress before each batch, and the written window at the end."""
        for event in self.pipeline.capture_window(self.pipeline.prepare(rows)):
            yield self._write(event) if isinstance(event, CapturedWindow) else event

    def _write(self, captured: CapturedWindow) -> WrittenWindow:
        result = captured.finish()
        if result.table is None:
            return WrittenWindow([], None, result.skipped, result.num_tokens)
        fragments = lance.fragment.write_fragments(result.table, self.rows)
        return WrittenWindow(list(fragments), result.table.schema, result.skipped, result.num_tokens)


class RayPool:
    """Workers on a Ray cluster, while the context is open.

    Args:
        address: `local` starts a cluster on this machine; `auto` or HOST:PORT connects to a running one, from one of
            its nodes.
        num_workers: By default one per GPU (one per GPU node for `device` "map"), or one per two cores without GPUs.
        device: The device to which workers load the model.
        quantize: The quantization with which workers load the model.
        set_note: Called with the throughput as text.
    """

    def __init__(
        self,
        address: str = "local",
        num_workers: int | None = None,
        *,
        device: str = "auto",
        quantize: str | None = None,
        set_note: Callable[[str], None] | None = None,
    ) -> None:
        if address.startswith("ray://"):
            do = "run it on the cluster: ray job submit --address … -- taughtby index build … --ray auto"
            raise OptionError(
                "ray:// addresses are not supported: Ray's client cannot stream progress", got=f"--ray {address}", do=do
            )
        self.address, self.device, self.quantize, self.set_note = address, device, quantize, set_note
        self._requested = num_workers
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if not ray.is_initialized():
            with self._stack:
                self._connect()
                self._stack = self._stack.pop_all()
        resources = ray.cluster_resources()
        gpus, cores = (0 if self.device == "cpu" else int(resources.get("GPU", 0))), int(resources.get("CPU", 1))
        nodes = sum("GPU" in node["Resources"] for node in ray.nodes() if node["Alive"])
        default = (nodes if gpus and self.device == "map" else gpus) or max(1, cores // 2)
        self.num_workers = self._requested or default
        self.has_gpus = gpus > 0
        share = {"num_gpus": _share(gpus, self.num_workers)} if gpus else {"num_cpus": _share(cores, self.num_workers)}
        self.options = {"num_cpus": 1, **share, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _connect(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        _silence()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address == "local":
            folder = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="taughtby-ray-", ignore_cleanup_errors=True)
            )
            options |= {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": OBJECT_STORE,
                        "include_dashboard": False, "_temp_dir": folder}  # fmt: skip
            self._stack.enter_context(_loopback())
        host, _, port = self.address.rpartition(":")
        try:
            if host:  # Ray itself retries for 90 seconds
                socket.create_connection((host, int(port)), timeout=10).close()
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # Lance warns about forks
                ray.init(self.address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            what = f"no Ray cluster at {self.address}"
            do = "give auto on a node of a running cluster (ray status), HOST:PORT, or nothing for a local one"
            if fault := machine_fault(error):
                what, do = f"{what}: {fault[0]}", fault[1]
            raise OptionError(what, got=str(error)[:300], do=do) from error
        self._stack.callback(ray.shutdown)

    def fill(
        self,
        writer: Writer,
        windows: Iterator[list[Example]],
        pipeline: CapturePipeline,
        report: Callable[[int], None],
    ) -> Skipped:
        """Capture the rows that the writer does not have, in order; return the skipped rows."""
        model = pipeline.model
        arguments = {
            "name": absolute_name(model.name),
            "adapter": [absolute_name(name) for name in model.adapters] or None,
            "base": model.base_name and absolute_name(model.base_name),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": self.device,
            "quantize": self.quantize,
        }
        path = writer.path.resolve() if isinstance(writer.path, Path) else writer.path
        no_model: Any = None
        pipeline_without_model = replace(pipeline, model=no_model)
        spec = WorkerSpec(pipeline_without_model, arguments, model.fingerprint, address(path / "rows.lance"))

        def start() -> WorkerHandle:
            actor = ray.remote(**self.options)(Worker).remote()
            return WorkerHandle(actor, actor.load.remote(spec))

        writer.exclusive = False
        try:
            return Scheduler(start, self.num_workers, writer, windows, report, self.set_note).run()
        finally:
            writer.exclusive = True


def _share(total: int, num_workers: int) -> float:
    """Devices or cores per worker: a whole number, or a fraction of one."""
    return total // num_workers or int(10_000 * total / num_workers) / 10_000


def _silence() -> None:
    """Stop Ray from printing each worker's death to stdout, for which it has no option."""
    worker: Any = ray._private.worker
    worker.print_to_stdstream = lambda *_, **__: None


@contextlib.contextmanager
def _loopback() -> Generator[None]:
    """Make a local cluster listen on loopback only, as Ray does when clusters of several machines are disabled."""
    constants: Any = ray._private.ray_constants
    name, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    constants.ENABLE_RAY_CLUSTER, os.environ[name] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        del os.environ[name]
