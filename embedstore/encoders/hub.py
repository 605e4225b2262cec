"""Where a checkpoint lies: a folder, the hub's cache on this machine, or the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from embedstore.errors import WeightsError

__all__ = [
    "code_files",
    "code_names",
    "find_checkpoint",
    "licence_of",
    "one_line",
    "read_extractor",
    "read_json",
    "weight_files",
]

# in the order of preference; an index lists the shards of a network that is too big for one file
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# what says how sound is prepared: alone, or (since the transformers library 5) inside what says it of all inputs
_EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
_CODE = ("AutoConfig", "AutoModel", "AutoFeatureExtractor")  # what is run of the code that a checkpoint may bring
_PATIENCE = 10  # seconds


def find_checkpoint(model: str, *, weights: bool = True, code: bool = False) -> tuple[Path, str]:
    """Find a checkpoint of the transformers library on this machine, or bring it from the hub.

    Parameters
    ----------
    model : str
        A folder, or a hub id ``"owner/name"`` (``"owner/name@revision"`` pins one).
    weights : bool
        False needs no weights files, only the config.
    code : bool
        Bring the Python files that it names, too; running them is another matter.

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
    _fetch(repository, commit, *_EXTRACTORS)
    for name in code_names(config.parent) if code else ():
        _fetch(repository, commit, name)
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


def read_extractor(folder: Path) -> dict[str, Any]:
    """Read how a checkpoint wants its sound prepared; empty if it does not say.

    Raises
    ------
    WeightsError
        The file is damaged.
    """
    file = next((folder / name for name in _EXTRACTORS if (folder / name).is_file()), None)
    fields = read_json(file) if file else {}
    inner = fields.get("feature_extractor")
    return inner if isinstance(inner, dict) else fields


def code_files(folder: Path) -> list[Path]:
    """List the Python files that a checkpoint names as its own code, and those that they import from beside them.

    Raises
    ------
    WeightsError
        One is missing, or it would come from elsewhere.
    """
    files = [folder / name for name in code_names(folder)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise WeightsError(f"{folder} lacks {missing[0]}, code that it names")
    return files


def code_names(folder: Path) -> Iterator[str]:
    """Name the Python files of `code_files`, each before it is read, so that it can be brought first.

    Raises
    ------
    WeightsError
        One would come from elsewhere.
    """
    named: list[str] = []
    for fields in (read_json(folder / "config.json"), read_extractor(folder)):
        table = fields.get("auto_map")
        references = [table[key] for key in _CODE if key in table] if isinstance(table, dict) else []
        for reference in references:
            if not isinstance(reference, str) or not re.fullmatch(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", reference, re.ASCII):
                raise WeightsError(
                    f"{folder} names {reference!r} as its code; expected a module of its own and a class"
                )
            named.append(reference.partition(".")[0])
    for place, module in enumerate(named):  # which grows
        if module in named[:place]:
            continue
        yield f"{module}.py"
        file = folder / f"{module}.py"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        named += re.findall(r"^\s*(?:from|import)\s+\.(\w+)", text, flags=re.MULTILINE)


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
