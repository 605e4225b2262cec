"""Finding files: what is taken, what is refused, in which order."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path

import numpy as np
import pytest

from embedstore.audio import find_audio
from embedstore.audio.signatures import identify, mpeg_start
from embedstore.errors import ParameterError


def paths(root, **options):
    return [file.path for file in find_audio(root, **options).files]


def reasons(root):
    return {one.path: one.reason for one in find_audio(root).rejected}


def test_takes_known_suffixes_unopened_and_sorts(tmp_path):
    """Suffixes decide in any case, sub-folders are walked, and the order is that of the whole path."""
    for name in ["b/2.MP3", "b/1.flac", "b.ogg", "a.wav", "b/c/d.m4a", "cover.jpg", "notes.txt", "b/list.m3u"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert paths(tmp_path) == ["a.wav", "b.ogg", "b/1.flac", "b/2.MP3", "b/c/d.m4a"]
    assert paths(tmp_path, limit=2) == ["a.wav", "b.ogg"]


def test_records_size_and_time(tmp_path, write_audio):
    """Size and modification time are those of the file, and the full path leads back to it."""
    path = write_audio("x/a.wav")
    (file,) = find_audio(tmp_path).files
    assert (file.size, file.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert file.full_path == str(path)


def test_relative_root_gives_absolute_paths(tmp_path, write_audio, monkeypatch):
    """A relative root is remembered as an absolute one."""
    write_audio("music/a.wav")
    monkeypatch.chdir(tmp_path)
    assert find_audio("music").files[0].full_path == str(tmp_path / "music" / "a.wav")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3", "aiff", "au", "caf", "w64"])
def test_takes_audio_by_content(tmp_path, write_audio, suffix):
    """Audio under a meaningless name is found by its first bytes, a text or random bytes are not."""
    path = write_audio(f"x.{suffix}", 1.0, 48000)
    path.rename(tmp_path / "song")
    (tmp_path / "copy.of_song").write_bytes((tmp_path / "song").read_bytes())
    (tmp_path / "README").write_text("ID ftyp RIFF WAVE: words about audio\n" * 20)
    (tmp_path / "utf16.odd").write_bytes("\ufeffwords".encode("utf-16-le") * 100)
    (tmp_path / "noise.odd").write_bytes(np.random.default_rng(0).bytes(100_000))
    assert paths(tmp_path) == ["copy.of_song", "song"]


def test_skips_hidden(tmp_path, write_audio):
    """Names with a leading dot, macOS companions among them, are passed over without a word."""
    write_audio(".hidden.wav")
    write_audio("._a.wav")
    write_audio(".folder/a.wav")
    write_audio("a.wav")
    found = find_audio(tmp_path)
    assert [file.path for file in found.files] == ["a.wav"]
    assert found.rejected == ()


def test_never_leaves_the_root(tmp_path, write_audio):
    """Links to files and folders outside are refused with a reason, also those that climb back by name only."""
    write_audio("outside/a.wav")
    root = tmp_path / "root"
    write_audio("root/in.wav")
    (root / "link.wav").symlink_to(tmp_path / "outside" / "a.wav")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (tmp_path / "root-b").mkdir()
    write_audio("root-b/b.wav")
    (root / "sibling.wav").symlink_to(tmp_path / "root-b" / "b.wav")
    assert paths(root) == ["in.wav"]
    assert reasons(root) == dict.fromkeys(["folder", "link.wav", "sibling.wav", "up"], "a link that leaves the folder")


def test_links_inside_do_not_loop_or_list_twice(tmp_path, write_audio):
    """A file is listed once, by its own name; a link to the root or to a parent ends nowhere."""
    write_audio("a/x.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "y.wav").symlink_to(tmp_path / "a" / "x.wav")
    found = find_audio(tmp_path)
    assert [file.path for file in found.files] == ["a/x.wav"]
    assert found.rejected == ()


def test_link_to_a_hidden_file_inside_is_taken_once(tmp_path, write_audio):
    """In a git-annex tree the visible names are links into a hidden folder: the first of them stands for the file."""
    target = write_audio(".git/annex/objects/k.wav", seconds=0.5)
    (tmp_path / "b.wav").symlink_to(target)
    (tmp_path / "a.wav").symlink_to(target)
    (file,) = find_audio(tmp_path).files
    assert (file.path, file.size) == ("a.wav", target.stat().st_size)


def test_root_may_be_a_link(tmp_path, write_audio):
    """A root that is a link is searched, and files keep the name the user gave."""
    write_audio("real/a.wav")
    (tmp_path / "music").symlink_to(tmp_path / "real")
    assert find_audio(tmp_path / "music").files[0].full_path == str(tmp_path / "music" / "a.wav")


def test_refuses_what_is_no_regular_file(tmp_path):
    """A FIFO, a socket and dead or circular links are refused, never opened; a folder named like a file is a folder."""
    os.mkfifo(tmp_path / "pipe.mp3")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.wav"))
    (tmp_path / "dead.wav").symlink_to("gone.wav")
    (tmp_path / "self.wav").symlink_to("self.wav")
    (tmp_path / "x.mp3").mkdir()
    assert paths(tmp_path) == []
    special = "not a regular file (a FIFO, device or socket)"
    assert reasons(tmp_path) == {
        "pipe": special,
        "pipe.mp3": special,
        "s.wav": special,
        "dead.wav": "a link that leads nowhere: No such file or directory",
        "self.wav": "a link that leads nowhere: Too many levels of symbolic links",
    }


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"line\nbreak\x1b[31m.wav", b'qu"ote\\.wav', "音楽.wav".encode()])
def test_any_name_survives(tmp_path, write_audio, name):
    """Names that are not UTF-8 or hold control characters come through, and still open the file."""
    write_audio(os.fsdecode(name))
    (file,) = find_audio(tmp_path).files
    assert os.fsencode(file.path) == name
    assert Path(file.full_path).stat().st_size == file.size


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone", "there is no folder .*gone.*is the disk mounted"), ("a.wav", "is a file; give the folder that holds it")],
)
def test_root_must_be_a_folder(tmp_path, write_audio, name, message):
    """A missing root and a root that is a file say so."""
    write_audio("a.wav")
    with pytest.raises(ParameterError, match=message):
        find_audio(tmp_path / name)


def test_limit_must_be_positive(tmp_path):
    """A limit of nothing is a mistake."""
    with pytest.raises(ParameterError, match="at least 1; got 0"):
        find_audio(tmp_path, limit=0)


def test_unreadable_folders(tmp_path, write_audio):
    """An unreadable root is an error, an unreadable folder below it is refused with a reason."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    write_audio("root/closed/a.wav")
    closed = tmp_path / "root" / "closed"
    closed.chmod(0)
    try:
        with pytest.raises(ParameterError, match="cannot be read: Permission denied"):
            find_audio(closed)
        assert reasons(tmp_path / "root") == {"closed": "the folder cannot be read: Permission denied"}
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00", "mp4"),
        (b"\x00\x00\x00\x20ftypheic\x00\x00\x00\x00", None),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "asf"),
        (b"ID3\x03\x00\x00\x00\x00\x00\x05abcdefLaC", "flac"),
        (b"ID3\x03\x00\x00\x00\x00\x00\x05abcdeXXXX", "mp3"),
        (b"\xff\xd8\xff\xe0 a picture", None),
        (b"#EXTM3U\nhttp://example.org/a.aac\n", None),
        (b"", None),
    ],
)
def test_signatures(head, kind):
    """Containers are told by their first bytes behind any ID3 tag; pictures and playlists are not audio."""
    assert identify(io.BytesIO(head)) == kind


def test_first_mpeg_frame_is_found_behind_rubbish(write_audio):
    """The offset of the first MPEG frame is exact, and its length statement is seen."""
    data = write_audio("a.mp3", 2.0, 44100).read_bytes()
    assert mpeg_start(io.BytesIO(data)) == (0, True)
    assert mpeg_start(io.BytesIO(b"\xff\x00junk" + data)) == (6, True)
    assert mpeg_start(io.BytesIO(b"words" * 100)) is None


def test_tricks_with_names_and_links(tmp_path, write_audio):
    """Links to system files, devices and pipes, names like options or of full length: only what is a file inside is taken."""
    longest = "x" * 251 + ".wav"
    write_audio("root/-rf.wav")
    write_audio(f"root/{longest}")
    root = tmp_path / "root"
    os.mkfifo(root / "pipe")
    for name, target in {
        "x.mp3": "/etc/passwd",
        "zero.wav": "/dev/zero",
        "null": "/dev/null",
        "proc.wav": "/proc/self/mem",
    }.items():
        (root / name).symlink_to(target)
    for name, target in {"a.wav": "b.wav", "b.wav": "a.wav", "here.wav": ".", "to pipe.wav": "pipe"}.items():
        (root / name).symlink_to(target)
    assert paths(root) == ["-rf.wav", longest]
    said = reasons(root)
    assert {said[name] for name in ("x.mp3", "zero.wav", "null", "proc.wav")} == {"a link that leaves the folder"}
    assert {said[name] for name in ("a.wav", "b.wav")} == {
        "a link that leads nowhere: Too many levels of symbolic links"
    }


def test_folders_deeper_than_paths_can_be(tmp_path, write_audio, monkeypatch):
    """A path that no system call takes costs what lies there, not its neighbours."""
    name, sound = "d" * 200, write_audio("a.wav").read_bytes()
    monkeypatch.chdir(tmp_path)
    for level in range(25):
        Path(f"{level}.wav").write_bytes(sound)
        Path("y" * 200 + ".wav").write_bytes(sound)
        Path(name).mkdir()
        os.chdir(name)
    monkeypatch.undo()
    found = find_audio(tmp_path)
    assert {f"{level}.wav" for level in range(18)} <= {Path(file.path).name for file in found.files}
    assert {one.reason.rpartition(": ")[2] for one in found.rejected} == {"File name too long"}
    assert len(found.rejected) >= 2


@pytest.mark.slow
def test_a_folder_of_a_hundred_thousand(tmp_path):
    """Many entries of all kinds are listed in seconds."""
    for i in range(100_000):
        (tmp_path / f"{i}.{('wav', 'jpg')[i % 2]}").touch()
    assert len(find_audio(tmp_path).files) == 50_000
