"""What became of the folders of a store, and what may be forgotten of them: files are empty here, no sound is decoded."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from embedstore.audio import find_audio
from embedstore.errors import ParameterError, StoreLockedError
from embedstore.folders import FolderCoverage, coverage, prune
from embedstore.store import EmbeddingStore
from embedstore.types import EncoderCard, Layer, LayerEmbeddings, Track

CARD = EncoderCard("toy", "toy", "", "", 16000, (Layer(0, "layer 0", 4),), 50.0, "", "float32", "", "", 0)


def lay(folder: Path, *names: str) -> None:
    """Make files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.fixture
def take_in(tmp_path):
    """Store what lies in a folder, as a build of that folder would; files called bad*.wav fail."""

    def take(root: Path) -> EmbeddingStore:
        path = tmp_path / "store"
        store = (
            EmbeddingStore.open(path)
            if EmbeddingStore.exists(path)
            else EmbeddingStore.create(path, CARD, {"dtype": "float16"})
        )
        known = store.files()
        with store.writer() as writer:
            for file in find_audio(root).files:
                if Path(file.path).name.startswith("bad"):
                    writer.fail(file, "decode", "bad")
                elif file.full_path not in known:
                    key = len(known) + len(writer._rows) + 1
                    writer.add(
                        Track(key, (file,), 1.0, 16000, 1),
                        f"{key:032x}",
                        LayerEmbeddings((np.ones(4, np.float32),), 50),
                    )
        return store

    return take


def names(folder: Path, paths: tuple[str, ...]) -> list[str]:
    """Shorten paths."""
    return sorted(os.path.relpath(path, folder) for path in paths)


def test_coverage_counts_each_kind(tmp_path, take_in):
    """New, changed, failed, gone and stored files are told apart; a failure that changed counts as changed."""
    music = tmp_path / "music"
    lay(music, *(f"a/{i}.wav" for i in range(6)), "bad1.wav", "bad2.wav")
    store = take_in(music)
    assert coverage(store) == [FolderCoverage(str(music), True, known=6, found=8, stored=6, failed=2)]
    (music / "a" / "0.wav").unlink()
    os.utime(music / "a" / "1.wav", ns=(1, 1))
    (music / "bad1.wav").write_text("longer than before")
    lay(music, "b/new.wav", "cover.jpg")
    (folder,) = coverage(store)
    assert folder == FolderCoverage(str(music), True, known=6, found=8, stored=4, failed=1, changed=2, new=1, gone=1)
    assert folder.to_dict()["gone"] == 1


def test_coverage_of_nested_roots_counts_a_file_once(tmp_path, take_in):
    """A file counts for the folder it was stored under; a new one for the inner folder."""
    music = tmp_path / "music"
    lay(music, "jazz/1.wav", "rock/1.wav")
    take_in(music / "jazz")
    store = take_in(music)
    lay(music, "jazz/new.wav", "rock/new.wav")
    outer, inner = coverage(store)
    assert outer == FolderCoverage(str(music), True, known=1, found=2, stored=1, new=1)
    assert inner == FolderCoverage(str(music / "jazz"), True, known=1, found=2, stored=1, new=1)


def test_coverage_of_what_is_not_there(tmp_path, take_in):
    """A missing folder and one without audio are not there; nothing of them counts as gone."""
    for name in ("usb", "cd", "music"):
        lay(tmp_path / name, "1.wav", "2.wav")
        store = take_in(tmp_path / name)
    shutil.rmtree(tmp_path / "usb")
    for path in (tmp_path / "cd").iterdir():
        path.unlink()
    found = {Path(folder.root).name: (folder.there, folder.known, folder.gone) for folder in coverage(store)}
    assert found == {"usb": (False, 2, 0), "cd": (False, 2, 0), "music": (True, 2, 0)}
    assert coverage(EmbeddingStore.create(tmp_path / "empty", CARD, {})) == []


def test_prune_forgets_deleted_files_artists_and_failures(tmp_path, take_in):
    """What a user deletes by hand is forgotten; a path that moved on to another track is not touched."""
    music = tmp_path / "music"
    lay(music, *(f"{artist}/{song}.wav" for artist in "abcdefghij" for song in range(3)), "bad1.wav", "bad2.wav")
    store = take_in(music)
    with store.writer() as writer:  # c/1 is another copy of c/0
        writer.link(
            next(file for file in find_audio(music).files if file.path == "c/1.wav"),
            "00",
            store.track(str(music / "c" / "0.wav")).key,
        )
    (music / "c" / "0.wav").unlink()
    shutil.rmtree(music / "a")  # a whole artist
    (music / "b" / "0.wav").unlink()
    (music / "bad1.wav").unlink()
    planned = prune(store, dry_run=True)
    assert (len(store), planned.tracks, planned.dry_run) == (29, 29, True)
    report = prune(store)
    assert names(music, report.forgotten) == ["a/0.wav", "a/1.wav", "a/2.wav", "b/0.wav", "c/0.wav"]
    assert (report.failures, report.hidden, report.tracks, report.refused) == (1, 4, 25, ())
    assert {**report.to_dict(), "dry_run": True, "tracks": 29} == planned.to_dict()
    assert (len(EmbeddingStore.open(store.path)), len(store.failures())) == (25, 1)
    assert store.held_keys() == set(range(1, 31)), "vectors stay"
    assert prune(store).forgotten == ()


@pytest.mark.parametrize(("deleted", "refused"), [(5, False), (6, False), (20, False), (21, True), (99, True)])
def test_prune_refuses_when_too_much_is_gone(tmp_path, take_in, deleted, refused):
    """More than 20 % of 100 files looks like a disk that is not there; --yes says that it is meant."""
    music = tmp_path / "music"
    lay(music, *(f"{i:02}.wav" for i in range(100)))
    store = take_in(music)
    for i in range(deleted):
        (music / f"{i:02}.wav").unlink()
    report = prune(store)
    assert bool(report.refused) == refused
    assert len(report.forgotten) == (0 if refused else deleted)
    if refused:
        assert report.refused == (
            f"{deleted} of 100 stored files of {music} are gone, more than 20%; they are kept (--yes forgets those that are gone)",
        )
        assert len(prune(store, yes=True).forgotten) == deleted


def test_prune_of_a_small_folder_needs_no_yes(tmp_path, take_in):
    """Up to five files are no disk: a folder of six may lose five."""
    lay(tmp_path / "music", *(f"{i}.wav" for i in range(6)))
    store = take_in(tmp_path / "music")
    for i in range(5):
        (tmp_path / "music" / f"{i}.wav").unlink()
    assert len(prune(store).forgotten) == 5


@pytest.mark.parametrize("how", ["missing", "empty", "a file", "only pictures"])
def test_prune_refuses_a_root_that_is_not_there_and_goes_on(tmp_path, take_in, how):
    """One clear line for it, and the other folder is pruned; with --yes it is forgotten."""
    lay(tmp_path / "usb", "1.wav", "2.wav", "bad.wav")
    lay(tmp_path / "music", "1.wav", "2.wav")
    take_in(tmp_path / "usb")
    store = take_in(tmp_path / "music")
    shutil.rmtree(tmp_path / "usb")
    if how == "a file":
        (tmp_path / "usb").touch()
    elif how != "missing":
        (tmp_path / "usb").mkdir()
        if how == "only pictures":
            lay(tmp_path / "usb", "cover.jpg")
    (tmp_path / "music" / "1.wav").unlink()
    report = prune(store)
    assert names(tmp_path, report.forgotten) == ["music/1.wav"]
    (line,) = report.refused
    assert str(tmp_path / "usb") in line
    assert "2 stored files of it are kept" in line
    report = prune(store, yes=True)
    assert (names(tmp_path, report.forgotten), report.failures) == (["usb/1.wav", "usb/2.wav"], 1)
    assert report.refused == ()


def test_prune_needs_no_yes_for_failures_of_a_folder_that_moved(tmp_path, take_in):
    """Its tracks are known by their new paths; rows about files that failed there are worth nothing."""
    lay(tmp_path / "old", "bad1.wav", "bad2.wav")
    store = take_in(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    report = prune(store)
    assert (report.failures, report.refused, store.failures()) == (2, (), [])


def test_prune_refuses_the_place_of_a_disk_below_a_root(tmp_path, take_in):
    """A folder that is still there and empty is where a disk was; what was deleted elsewhere is forgotten all the same."""
    music = tmp_path / "music"
    lay(music, *(f"a/{i}.wav" for i in range(30)), "usb/x/1.wav", "usb/x/2.wav", "deleted/1.wav")
    store = take_in(music)
    shutil.rmtree(music / "usb" / "x")
    shutil.rmtree(music / "deleted")
    report = prune(store)
    assert names(music, report.forgotten) == ["deleted/1.wav"]
    assert report.refused == (
        f"{music / 'usb'} is there and empty (is the disk mounted?); 2 files of it are kept (--yes forgets those that are gone)",
    )
    assert names(music, prune(store, yes=True).forgotten) == ["usb/x/1.wav", "usb/x/2.wav"]


def test_prune_of_named_folders(tmp_path, take_in, monkeypatch):
    """A folder below a root, by a relative path, is looked at alone; one that nothing is known of is an error."""
    lay(tmp_path / "music", "a/1.wav", "a/2.wav", "b/1.wav", "b/2.wav")
    store = take_in(tmp_path / "music")
    for name in ("a/1.wav", "b/1.wav"):
        (tmp_path / "music" / name).unlink()
    monkeypatch.chdir(tmp_path)
    assert names(tmp_path, prune(store, ["music/a"]).forgotten) == ["music/a/1.wav"]
    with pytest.raises(
        ParameterError, match=rf"nothing is stored of {tmp_path}/musi; .*folders.* are: {tmp_path}/music"
    ):
        prune(store, ["musi"])
    assert names(tmp_path, prune(store, ["music/b", "music"]).forgotten) == ["music/b/1.wav"], "once"


def test_prune_keeps_what_cannot_be_seen(tmp_path, take_in, monkeypatch):
    """A folder that may not be entered, a disk with an error, a link that leads nowhere: these files are not gone."""
    music = tmp_path / "music"
    lay(music, "1.wav", "closed/2.wav", "link.wav")
    store = take_in(music)
    (music / "link.wav").unlink()
    (music / "link.wav").symlink_to("/nowhere/link.wav")
    (music / "closed" / "2.wav").rename(tmp_path / "2.wav")
    real = os.lstat

    def refuse(path, **options):
        if "closed/2" in os.fspath(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", refuse)
    for yes in (False, True):
        assert prune(store, yes=yes).forgotten == ()
    assert coverage(store)[0].gone == 0


def test_prune_forgets_nothing_of_a_root_that_cannot_be_read(tmp_path, take_in, monkeypatch):
    """Not even with --yes: nobody knows what is gone of it."""
    lay(tmp_path / "music", "1.wav", "2.wav")
    store = take_in(tmp_path / "music")

    def refuse(path, **_options):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    report = prune(store, yes=True, dry_run=True)
    assert report.forgotten == ()
    assert "cannot be read: Permission denied; 2 stored files of it are kept" in report.refused[0]


def test_prune_does_not_write_beside_a_build(tmp_path, take_in, monkeypatch):
    """While a build runs, prune says who is writing; a dry run needs no lock."""
    lay(tmp_path / "music", "1.wav", "2.wav")
    store = take_in(tmp_path / "music")
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with EmbeddingStore.open(store.path).writer():
        assert prune(store, dry_run=True).tracks == 2
        with pytest.raises(StoreLockedError):
            prune(store)


def run(*arguments: object) -> tuple[int, str, str]:
    """Run a command: its exit code, stdout and stderr."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_prune_and_info_on_the_command_line(tmp_path, take_in, monkeypatch):
    """Refusals are lines on stderr and exit code 1, `info` has a line for each folder, and both speak JSON."""
    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "music", "1.wav", "2.wav", "3.wav", "bad.wav")
    lay(tmp_path / "usb", "1.wav")
    take_in(tmp_path / "usb")
    store = take_in(tmp_path / "music").path
    shutil.rmtree(tmp_path / "usb")
    (tmp_path / "music" / "1.wav").unlink()
    lay(tmp_path / "music", "new.wav")
    code, out, _ = run("info", "--store", store)
    assert code == 0
    assert "folder    music: 4 files, 2 stored, 1 failed, 1 new; 1 stored ones are gone" in out
    assert "folder    usb: not there now (is the disk mounted?); 1 stored files" in out
    assert "folder" not in run("info", "--no-scan", "--store", store)[1]
    assert [f["gone"] for f in json.loads(run("info", "--json", "--store", store)[1])["folders"]] == [1, 0]
    assert json.loads(run("info", "--json", "--no-scan", "--store", store)[1])["folders"] is None
    code, out, err = run("prune", "--dry-run", "--store", store)
    assert (code, err.count("\n")) == (1, 1)
    assert out == (
        f"would forget {tmp_path}/music/1.wav\n1 files and 0 failures would be forgotten; 1 tracks have no file left "
        "(their vectors stay until `embedstore compact`)\nstore holds 4 tracks\n"
    )
    code, _, err = run("prune", "music", "--store", store)
    assert (code, err) == (0, "")
    code, out, err = run("prune", "--store", store)
    assert (code, err.startswith("refused: there is no folder"), err.count("\n")) == (1, True, 1)
    code, out, _ = run("prune", "--json", "--store", store)
    assert (code, len(json.loads(out)["refused"]), json.loads(out)["tracks"]) == (1, 1, 3)
    assert run("prune", "--yes", "--store", store)[0] == 0
    assert json.loads(run("info", "--json", "--store", store)[1])["tracks"] == 2
    assert run("prune", "nowhere", "--store", store)[0] == 1
