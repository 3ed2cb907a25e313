"""Damaged files: one partition that cannot be opened is offline and says so, all others serve."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from logd.errors import ErrorCode
from logd.log.directory import DataDirectory
from logd.log.disk import RealDisk
from tests.process.server import Server, refused
from tests.raw import Peer, batch, produce_request


def flip(file: Path, position: int) -> None:
    """Turn over one bit of a byte."""
    data = bytearray(file.read_bytes())
    data[position] ^= 0x10
    file.write_bytes(data)


def become_directory(path: Path) -> None:
    """Put a directory that is not empty where a file is, or would be."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").touch()


def become_file(directory: Path) -> None:
    """Put a file where a directory is."""
    shutil.rmtree(directory)
    directory.touch()


UNUSABLE: list[Callable[[Path], object]] = [
    lambda log: flip(log / "partition.meta", 12),
    lambda log: os.truncate(log / "partition.meta", 7),
    lambda log: (log / "partition.meta").unlink(),
    lambda log: become_directory(log / "partition.meta"),
    lambda log: become_directory(log / "partition.state"),
    lambda log: become_directory(log / "00000000000000000000.log"),
    become_file,
]


def produced(peer: Peer, topic: str) -> int:
    """Append a batch; the error code."""
    code: int = peer.ask(produce_request(topic, batch(b"x")), 9).responses[0].partition_responses[0].error_code
    return code


def test_unusable_partitions(tmp_path: Path) -> None:
    """Partitions whose files cannot be used refuse with KAFKA_STORAGE_ERROR; the node starts and serves the rest."""
    topics = [f"bad{number}" for number in range(len(UNUSABLE))]
    with Server(tmp_path / "data") as server:
        with Peer(server.bootstrap) as peer:
            for topic in (*topics, "good"):
                peer.make_topic(topic)
                assert produced(peer, topic) == 0
        server.kill()
        become_directory(tmp_path / "data" / "good-0" / "partition.meta.tmp")  # in nobody's way
        for topic, damage in zip(topics, UNUSABLE, strict=True):
            damage(tmp_path / "data" / f"{topic}-0")
        server.start()
        with Peer(server.bootstrap) as peer:
            assert [produced(peer, topic) for topic in topics] == [ErrorCode.KAFKA_STORAGE_ERROR] * len(topics)
            assert produced(peer, "good") == 0
        assert server.stop()[0] == 0


def test_vanished_directory(tmp_path: Path) -> None:
    """A partition whose directory has vanished is not begun anew in silence, but when an empty one is put there."""
    data = tmp_path / "data"
    with Server(data) as server:
        with Peer(server.bootstrap) as peer:
            for topic in ("gone", "kept"):
                peer.make_topic(topic)
                assert produced(peer, topic) == 0
        assert server.stop()[0] == 0
        shutil.rmtree(data / "gone-0")
        for _ in range(2):
            server.start()
            with Peer(server.bootstrap) as peer:
                assert produced(peer, "gone") == ErrorCode.KAFKA_STORAGE_ERROR
                assert produced(peer, "kept") == 0
            server.kill()
        assert "gone-0 is offline" in server.log.read_text()
        assert "has vanished" in server.log.read_text()
        assert not (data / "gone-0").exists()
        (data / "gone-0").mkdir()
        server.start()
        with Peer(server.bootstrap) as peer:
            assert produced(peer, "gone") == 0
        assert server.stop()[0] == 0


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metadata.db", lambda file: flip(file, 5)),
        ("metadata.db", lambda file: file.write_bytes(b"not a database" * 100)),
        ("metadata.db", become_directory),
        ("format.json", lambda file: file.write_bytes(b"[1]")),
        ("format.json", lambda file: file.write_bytes(b"\0\0")),
        ("format.json", become_directory),
        (".lock", become_directory),
    ],
)
def test_unusable_directory(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    """Without what belongs to the whole node there is no start: one sentence that names the file, exit code 1."""
    data = tmp_path / "data"
    with Server(data) as server:
        with Peer(server.bootstrap) as peer:
            peer.make_topic("there")
        assert server.stop()[0] == 0
    damage(data / name)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    code, said = refused("--data-dir", str(data), "--listen", "127.0.0.1:0")
    assert code == 1
    assert name in said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("logd: ")]) == 1
    for path, content in before.items():
        assert path.read_bytes() == content, f"{path.name} was changed"


def written_in_2100(data: Path) -> object:
    """As if it had been in use under a clock that is far ahead."""
    return DataDirectory(RealDisk(), str(data), None, False).note_clock(4_102_444_800_000)


def of_another_cluster(data: Path) -> object:
    """The metadata of another node is put in its place."""
    other = data.with_name("other")
    with Server(other) as server:
        assert server.stop()[0] == 0
    (data / "metadata.db.version").unlink()
    return shutil.copy2(other / "metadata.db", data / "metadata.db")


def given_away(data: Path) -> object:
    """All of it belongs to somebody else now."""
    for path in (data, *data.rglob("*")):
        os.chown(path, 12345, 12345)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (written_in_2100, "set the clock, or remove"),
        (of_another_cluster, "belongs to cluster"),
        pytest.param(
            given_away,
            "belongs to user 12345",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away"),
        ),
    ],
)
def test_a_directory_that_is_not_ours(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    """Another user's, another cluster's, of another time: one sentence, exit code 1, and nothing of it is changed."""
    data = tmp_path / "data"
    with Server(data) as server:
        with Peer(server.bootstrap) as peer:
            peer.make_topic("there")
            assert produced(peer, "there") == 0
        assert server.stop()[0] == 0
    change(data)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    code, text = refused("--data-dir", str(data), "--listen", "127.0.0.1:0")
    assert code == 1
    assert said in text
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("logd: ")]) == 1
    for path, content in before.items():
        assert path.read_bytes() == content, f"{path.name} was changed"


def test_leftovers_of_deleted_topics(tmp_path: Path) -> None:
    """What a crash left of deleted topics is removed at the next start; what belongs to nobody is kept."""
    data = tmp_path / "data"
    with Server(data) as server:
        with Peer(server.bootstrap) as peer:
            for topic in ("gone", "kept"):
                peer.make_topic(topic)
                assert produced(peer, topic) == 0
        server.kill()
        shutil.copytree(data / "gone-0", data / f"gone-0.{'0a' * 16}-delete")
        shutil.copytree(data / "gone-0", data / "stray-0")
        server.start()
        with Peer(server.bootstrap) as peer:
            assert produced(peer, "gone") == produced(peer, "kept") == 0
            peer.make_topic("stray")
            assert produced(peer, "stray") == 0
        assert server.stop()[0] == 0
    names = [path.name for path in data.iterdir()]
    assert not [name for name in names if name.endswith("-delete")]
    assert len([name for name in names if name.startswith("stray-0.") and name.endswith("-stray")]) == 1


def test_start_on_a_full_disk(tmp_path: Path) -> None:
    """A disk without any space left ends the start with one sentence, and nothing is lost by it."""
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(mount)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with Server(mount / "data") as server:
            with Peer(server.bootstrap) as peer:
                peer.make_topic("kept")
                assert produced(peer, "kept") == 0
            server.kill()
            filler = mount / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            code, said = refused("--data-dir", str(mount / "data"), "--listen", "127.0.0.1:0")
            assert code == 1
            assert "Traceback" not in said
            filler.unlink()
            server.start()
            with Peer(server.bootstrap) as peer:
                assert produced(peer, "kept") == 0
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
