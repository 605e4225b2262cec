"""Where a checkpoint lies: a folder, the hub's cache on this machine, or the hub."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedstore.errors import WeightsError

__all__ = ["find_checkpoint", "licence_of", "one_line", "read_json", "weight_files"]

# in the order of preference; an index lists the shards of a network that is too big for one file
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PATIENCE = 10  # seconds


def find_checkpoint(model: str, *, weights: bool = True) -> tuple[Path, str]:
    """Find a checkpoint of the transformers library on this machine, or bring it from the hub.

    Parameters
    ----------
    model : str
        A folder, or a hub id ``"owner/name"`` (``"owner/name@revision"`` pins one).
    weights : bool
        False needs no weights files, only the config.

    Returns
    -------
    folder : Path
    title : str
        The folder's name, or the hub id with its revision.

    Raises
    ------
    WeightsError
        There is no such folder, or the hub does not give it.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+(@[\w./-]+)?", model):
        raise WeightsError(f"{model} is no folder; give the folder of a checkpoint, or its hub id as owner/name")
    repository, _, revision = model.partition("@")
    config = _fetch(repository, revision or None, "config.json")
    if config is None:
        raise WeightsError(f"{model} has no config.json: it is no checkpoint of the transformers library")
    commit = config.parent.name
    if weights:
        file = _fetch(repository, commit, *_WEIGHTS)
        for shard in _shards(file) if file and file.suffix == ".json" else []:
            _fetch(repository, commit, shard)
    _fetch(repository, commit, "preprocessor_config.json")
    with suppress(WeightsError):  # it only tells the licence
        _fetch(repository, commit, "README.md")
    return config.parent, f"{repository}@{commit[:12]}"


def _fetch(repository: str, revision: str | None, *names: str) -> Path | None:
    """Give the first of some files, from the cache if it has any; None if the repository has none of them."""
    import huggingface_hub as hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cached = [hub.try_to_load_from_cache(repository, name, revision=revision) for name in names]
    if there := [file for file in cached if isinstance(file, str)]:
        return Path(there[0])
    if None not in cached:  # the rest are marks of files that the repository lacks
        return None
    what = f"{repository}@{revision}" if revision else repository
    for name in names:
        try:
            # one short look first: on its own, the download retries for half a minute when there is no network
            hub.get_hf_file_metadata(hub.hf_hub_url(repository, "config.json", revision=revision), timeout=_PATIENCE)
            return Path(hub.hf_hub_download(repository, name, revision=revision))
        except GatedRepoError as error:
            page = f"https://huggingface.co/{repository}"
            raise WeightsError(f"{what} is gated: accept its terms on {page}, then run: hf auth login") from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise WeightsError(f"{what} is neither a folder here nor a public model on the hub") from error
        except Exception as error:  # the hub's client lets through what its HTTP library raises, and that varies
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise WeightsError(
                f"the weights of {what} are not on this machine and the hub cannot be reached ({one_line(error)}); "
                "three ways on: connect and run again; --model DIR with a copy of the checkpoint; "
                "--encoder musicnn, which needs no hub"
            ) from error
    return None


def weight_files(folder: Path) -> list[Path]:
    """List the weights files of a folder: safetensors before ``.bin``, one file or shards.

    Raises
    ------
    WeightsError
        There are none, or a shard is missing.
    """
    first = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise WeightsError(f"{folder} holds no weights; expected {_WEIGHTS[0]} or {_WEIGHTS[2]}")
    files = [folder / shard for shard in _shards(first)] if first.suffix == ".json" else [first]
    if missing := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f"{folder} lacks the weights file {missing[0]}, which {first.name} names")
    return files


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    shards = sorted(set(map(str, names.values()))) if isinstance(names, dict) else []
    if not shards or any(Path(name).name != name for name in shards):
        raise WeightsError(f"{index} is damaged: it does not list weights files of its own folder")
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    WeightsError
        The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def licence_of(folder: Path) -> str:
    """Read the licence from the front matter of a model page (``README.md``)."""
    page = folder / "README.md"
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    front = re.match(r"\s*---\s*\n(.*?)\n---", text, flags=re.DOTALL)
    name = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", front[1], flags=re.MULTILINE) if front else None
    if name is None:
        return "unknown: check the model page"
    return name[1] + (" (non-commercial)" if "nc" in name[1].lower().split("-") else "")


def one_line(error: Exception) -> str:
    """Say what an error says, on one line and not for long."""
    return " ".join(str(error).split())[:200] or type(error).__name__
