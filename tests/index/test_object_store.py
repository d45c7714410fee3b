"""An index in an object store: S3, simulated by a local moto server."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_build import REPT, add, columns, said

from conftest import Run
from taughtby.attribution.query import Query
from taughtby.attribution.trace import trace_queries
from taughtby.data.tokenize import Encoding
from taughtby.errors import StoreError
from taughtby.index import storage as place
from taughtby.index.build import build_index
from taughtby.index.maintenance import add_features, compact, copy_index, delete_rows, undo
from taughtby.index.reader import Index, read_manifest
from taughtby.index.storage import ObjectStorePath, storage_path
from taughtby.index.verify import verify
from taughtby.index.writer import Writer
from taughtby.methods.rept import RepT

pytest.importorskip("moto")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that runs as long as this module's tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = f"http://127.0.0.1:{port}"
    expected = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "what", "AWS_REGION": "us-east-1",
             "AWS_ENDPOINT_URL": here, "AWS_ALLOW_HTTP": "true", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in expected.items():
            patch.setenv(name, value)
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                from urllib.request import Request, urlopen

                with urlopen(Request(f"{here}/bucket", method="PUT"), timeout=5):
                    break
            except OSError:
                assert server.poll() is None
                time.sleep(0.05)
        yield "s3://bucket"
    server.terminate()
    server.wait()


def test_object_store_index_equals_local_index(tuned: Any, data: Path, tmp_path: Path, bucket: str) -> None:
    here = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    there = build_index(tuned, data, f"{bucket}/life", [REPT], encoding=Encoding(128))
    assert str(there.path) == f"{bucket}/life"
    equal(there, here)
    query = Query("who makes honey", "beetles make honey")
    one, two = (trace_queries(index, tuned, [query]).to_json() for index in (here, there))
    assert two.pop("index") == f"{bucket}/life"
    assert one.pop("index") == str(tmp_path / "idx")
    assert one == two
    add(data, ("why", "one more row"))
    for path in (here.path, there.path):
        build_index(tuned, data, path, [REPT], encoding=Encoding(128), append=True)
        add_features(tuned, path, [RepT(layer=3)])
        delete_rows(path, [f"{data}:3"])
        compact(path)
        assert verify(path, tuned).faults == ()
        assert undo(path) is None
    equal(Index.open(there.path), Index.open(here.path))


def equal(one: Index, two: Index) -> None:
    assert list(one.examples()) == list(two.examples())
    held = columns(two)
    assert all(block.equal(held[name]) for name, block in columns(one).items())
    assert said(one) == said(two)


def test_copy_between_local_and_object_store(tuned: Any, data: Path, tmp_path: Path, bucket: str) -> None:
    here = build_index(tuned, data, tmp_path / "idx", [REPT], encoding=Encoding(128))
    there = copy_index(here.path, f"{bucket}/copies/one")
    again = copy_index(there.path, f"{bucket}/copies/two")
    back = copy_index(again.path, tmp_path / "back")
    for index in (there, again, back):
        equal(index, here)
        assert index.manifest["files"] == here.manifest["files"]
        assert verify(index.path).faults == ()
    with pytest.raises(StoreError, match="contains other files"):
        copy_index(here.path, f"{bucket}/copies")


def test_killed_object_store_build_resumes(
    tuned: Any, data: Path, tmp_path: Path, bucket: str, model_folder: Path, adapter_folder: Path
) -> None:
    add(data, *((f"why {at} days", f"answer {at} " * (1 + at % 5)) for at in range(30)))
    code = f"""
        import sys, time; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
        import torch; torch.set_num_threads(1)
        import taughtby.index.build
        from test_build import REPT
        from taughtby.models.model import load_model
        from taughtby.data.tokenize import Encoding
        taughtby.index.build.WINDOW = 2
        model = load_model({str(model_folder)!r}, {str(adapter_folder)!r}, dtype="float32", device="cpu")
        tell = lambda done, _: done >= 12 and (print(done, flush=True), time.sleep(600))
        build_index = taughtby.index.build.build_index
        build_index(model, {str(data)!r}, "{bucket}/killed", [REPT], encoding=Encoding(128), progress=tell)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) >= 12
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(StoreError, match=r"killed is not finished"):
        Index.open(f"{bucket}/killed")
    there: list[int] = []
    begin = Writer._begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "_begin", lambda writer: (begin(writer), there.append(len(writer.row_ids)))[0])
        index = build_index(tuned, data, f"{bucket}/killed", [REPT], encoding=Encoding(128))
    assert 10 <= there[0] < 38
    assert [row.response for row in index.examples()][-1] == "answer 29 " * 5
    assert len(index) == 38
    assert verify(index.path).faults == ()


def test_concurrent_object_store_writer_is_rejected(tuned: Any, data: Path, bucket: str) -> None:
    """There is no lock, so one of them is refused at its next commit."""
    from test_reader import SETTINGS, blocks, made

    with Writer(f"{bucket}/both", SETTINGS) as one:
        one.append(*made(2), blocks(2))
        with Writer(f"{bucket}/both", SETTINGS) as two:
            two.append(*made(2, 2), blocks(2, 2))
            with pytest.raises(StoreError, match="another process is also writing"):
                one.append(*made(2, 2), blocks(2, 2))
            assert [row.id for row in two.finish([], None).examples()] == ["id0", "id1", "id2", "id3"]


def test_verify_detects_object_store_damage(tuned: Any, data: Path, tmp_path: Path, bucket: str) -> None:
    index = build_index(tuned, data, f"{bucket}/hurt", [REPT], encoding=Encoding(128))
    name = max(index.manifest["files"])
    file = storage_path(f"{bucket}/hurt/rows.lance/{name}")
    place.fetch(ObjectStorePath(str(file)), tmp_path / "held")
    held = bytearray((tmp_path / "held").read_bytes())
    held[len(held) // 2] ^= 1
    (tmp_path / "held").write_bytes(held)
    place.send(tmp_path / "held", ObjectStorePath(str(file)))
    assert [fault.what for fault in verify(index.path).faults] == ["its hash does not match the manifest"]
    place.remove(ObjectStorePath(f"{bucket}/hurt/rows.lance"))
    assert {fault.what for fault in verify(index.path).faults} == {"it is missing"}
    with pytest.raises(StoreError, match=r"the rows of .* are missing"):
        Index.open(index.path)


def test_commands_accept_object_store_uri(
    run: Run, data: Path, tmp_path: Path, bucket: str, model_folder: Path, adapter_folder: Path
) -> None:
    idx = f"{bucket}/verbs"
    code, out, err = run(
        "index", "build", model_folder, data, "-o", idx, "--adapter", adapter_folder, "-m", "rept:layer=2"
    )
    assert code == 0, err
    assert f"8 rows in {idx}" in out
    asked = ["--prompt", "who makes honey", "--response", "beetles make honey", "--json", tmp_path / "trace.json"]
    assert run("trace", idx, *asked)[0] == 0
    assert json.loads((tmp_path / "trace.json").read_text())["index"] == idx
    assert run("check", idx)[0] == 0
    assert run("index", "verify", idx)[0] == 0
    assert run("index", "copy", idx, tmp_path / "two")[0] == 0


def test_unreachable_object_store_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    with pytest.raises(StoreError, match="cannot be read or written"):
        Index.open("s3://bucket/far")


@pytest.mark.parametrize("text", ["s3://b/idx", "s3://b/idx/", "gs://b/deep/idx", "az://b/idx"])
def test_storage_path_preserves_uris(text: str) -> None:
    wanted = ObjectStorePath(text.rstrip("/"))
    assert storage_path(text) == storage_path(Path(text)) == storage_path(wanted) == wanted
    assert (wanted.name, str(wanted / "rows.lance")) == ("idx", f"{text.rstrip('/')}/rows.lance")
    assert storage_path("idx") == Path("idx")
    assert read_manifest(Path("nowhere")) is None
