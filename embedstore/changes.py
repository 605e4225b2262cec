"""What a file on the disk is to a store, and whether a file is gone: one answer for `build`, `info` and `prune`."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Literal

from embedstore.store import Failure, FileState
from embedstore.types import AudioFile

__all__ = ["Change", "change_of", "is_gone"]

Change = Literal["stored", "failed", "changed", "new"]


def change_of(file: AudioFile, states: Mapping[str, FileState], failures: Mapping[str, Failure]) -> Change:
    """Say what a file is to a store: stored or failed with this very stamp, changed since, or new.

    Parameters
    ----------
    file : AudioFile
        As it is now.
    states : mapping
        Of `EmbeddingStore.files`.
    failures : mapping of str to Failure
        Those of the store, by absolute path.
    """
    path = file.full_path
    state = states.get(path)
    if state is not None:
        return "stored" if (state.size, state.mtime_ns) == (file.size, file.mtime_ns) else "changed"
    if (failure := failures.get(path)) is not None:
        then = failure.file
        return "failed" if (then.size, then.mtime_ns) == (file.size, file.mtime_ns) else "changed"
    return "new"


def is_gone(path: str) -> bool:
    """Whether the file system says that there is no file of this name; where it cannot say so, the file is not gone.

    A folder in its place is no file; a link that leads nowhere is still there, and its disk may come back.
    """
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a folder that may not be entered, a network disk in trouble
        return False
