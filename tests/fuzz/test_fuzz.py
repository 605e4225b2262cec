"""A little fuzz each time, more of it in the slow suite, and as much as one likes by `run.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mutate
import pytest
import targets


def fuzz(target: str, count: int) -> None:
    """Run examples 0 .. count in a process of their own: crashes of C libraries, hangs and memory count, too."""
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--first", "0", "--count", str(count)]
    done = subprocess.run([*command, "--target", target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_few_hostile_files_of_each_kind():
    """Shards, deltas, descriptions, preferences, tables, indices, plans and catalogues: refused in one line, or right."""
    fuzz(",".join(targets.TARGETS), 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", targets.TARGETS)
def test_many_hostile_files(target):
    """The same with hundreds of each, thousands of what a C library parses."""
    fuzz(target, {"shards": 2500, "indices": 1000, "tables": 1000, "preferences": 150}.get(target, 300))


def test_the_sums_of_spoilt_metadata_are_right():
    """Metadata that is summed up anew is as HDF5 had it: spoilt metadata is not refused for its sum alone."""
    good = next((Path(__file__).parent.parent / "store/golden/store/shards").iterdir()).read_bytes()
    assert good.count(b"OHDR") >= 7
    assert mutate.resum(bytearray(good)) == good


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("os.abort()", "one 7: signal 6"),
        ("list(range(10**8))", "MemoryError"),
        ("1 / 0", "ZeroDivisionError"),
        ("open(os.devnull)", "{'one': 1}: 0 went wrong"),
        pytest.param("time.sleep(100)", "one 7: signal 14", marks=pytest.mark.slow),
    ],
)
def test_what_goes_wrong_is_seen(tmp_path, wrong, told):
    """A crash, a hang, a swollen process and an exception are each told with the number of the example; a good one is not."""
    copy = tmp_path / "run.py"
    text = Path(__file__).with_name("run.py").read_text().replace("SECONDS = 20", "SECONDS = 1")
    copy.write_text(text)
    (tmp_path / "targets.py").write_text(
        f"import os, time\nclass Ground: pass\ndef one(chance, ground): {wrong}\nTARGETS = {{'one': one}}\n"
    )
    done = subprocess.run(
        [sys.executable, str(copy), "--target", "one", "--first", "7", "--count", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told in done.stdout
    assert done.returncode == ("0 went wrong" not in told)
