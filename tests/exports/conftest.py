"""Make `store_material` importable; a store to export."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from embedstore.exports import base
from embedstore.store import EmbeddingStore

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
import store_material as m


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """Make a store of 600 tracks once."""
    path = tmp_path_factory.mktemp("made") / "embeddings"
    m.make(path, range(600)).close()
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, made) -> EmbeddingStore:
    """Open a copy of it, which is exported in three pieces; run in its folder."""
    monkeypatch.setattr(base, "_AT_ONCE", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EMBEDSTORE_STORE", raising=False)
    shutil.copytree(made, "embeddings")
    return EmbeddingStore.open("embeddings")


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in a process of its own: a segmentation fault is an exit code."""

    def start(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *map(str, command)], capture_output=True, text=True, check=False, timeout=250
        )

    return start


@pytest.fixture
def mounted(tmp_path) -> Callable[..., AbstractContextManager[Path]]:
    """Mount a small memory disk, where that is allowed."""

    @contextmanager
    def mount(options: str) -> Iterator[Path]:
        folder = tmp_path / "small"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        if os.geteuid() or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)

    return mount
