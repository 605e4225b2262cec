"""GTZAN: ten folders of a hundred excerpts, ``blues/blues.00000.wav``; by default what its faults leave of it.

The fault-filtered split (Kereliuk, Sturm, Larsen 2015) is read from the lists that torchaudio carries, or from
train_filtered.txt, valid_filtered.txt and test_filtered.txt in the folder of ``gtzan:FOLDER``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from embedstore.errors import LabelsError
from embedstore.labels.rows import stem_of
from embedstore.labels.table import Columns, DataSet, LabelTable, Problems, clean
from embedstore.types import SPLITS, AudioFile, TrackLabels

__all__ = ["DATASET", "read_gtzan"]

_SIZES = {"train": 443, "valid": 197, "test": 290}
DATASET = DataSet(
    name="GTZAN",
    licence="none is stated; the excerpts are from commercial recordings, for research only",
    citation=(
        "Tzanetakis, G., & Cook, P. (2002). Musical genre classification of audio signals. IEEE Transactions on Speech and "
        "Audio Processing 10(5). Split: Kereliuk, C., Sturm, B. L., & Larsen, J. (2015). Deep learning and music "
        "adversaries. IEEE Transactions on Multimedia 17(11)."
    ),
    url="http://marsyas.info/downloads/datasets.html",
    splits=("fault-filtered: train 443, valid 197, test 290, without an artist on two sides",),
    faults=(
        "50 excerpts are exact replicas, 22 more are of the same recording, 13 are other versions of a song",
        "106 are mislabelled: a perfect classifier would score about 94.5 %",
        "jazz.00054 cannot be read in common copies",
        "no artist is named: folds cannot keep artists apart, so use the fault-filtered split",
    ),
)
GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
_NAME = re.compile(rf"(?:^|/)(({'|'.join(GENRES)})\.(\d{{5}}))(?:\.\w+)?$", re.ASCII)


def read_gtzan(source: str, files: Sequence[AudioFile], columns: Columns) -> LabelTable:  # noqa: ARG001 - the readers' common signature
    """Take genres from the files' names, and the split from the lists; files in none of them get no labels.

    Where there are no lists, every file gets its genre and no split, and the faults are warned about.

    Raises
    ------
    LabelsError
        The folder has no such lists, or none of the files has the name of an excerpt.
    """
    problems = Problems()
    sides = _sides(_lists_in(Path(source)) if source != "gtzan" else _lists_of_torchaudio(), problems)
    by_path: dict[str, TrackLabels] = {}
    seen: Counter[str] = Counter()
    for file in files:
        name = _NAME.search(stem_of(file))
        if name is None:
            problems.add("file without the name of an excerpt, such as blues.00000", clean(file.path))
            continue
        seen[name[1]] += 1
        if sides and name[1] not in sides:
            problems.add(
                "file outside the fault-filtered split (no labels; `folder` would give it some)", clean(file.path)
            )
        else:
            by_path[file.full_path] = TrackLabels((name[2],), split=sides.get(name[1], ""))
    for copy in (name for name, count in seen.items() if count > 1):
        problems.add("excerpt that several files hold", copy)
    if files and not seen:
        raise LabelsError(
            f"none of the {len(files)} files has the name of an excerpt of GTZAN, such as blues.00000.wav; "
            f"the first is {clean(files[0].path)!r}"
        )
    rows = len(sides) or 1000
    return LabelTable(source, by_path, len(files), rows, len(seen.keys() & (sides or seen)), problems.lines())


def _sides(lists: dict[str, list[str]], problems: Problems) -> dict[str, str]:
    """Turn the lists around: excerpt -> side."""
    if not lists:
        problems.note(
            "the fault-filtered split is not at hand (torchaudio has it; or give gtzan:FOLDER with train_filtered.txt, "
            "valid_filtered.txt, test_filtered.txt): no split, and replicas and mislabelled excerpts are in"
        )
        return {}
    sizes = {side: len(set(names)) for side, names in lists.items()}
    if sizes != _SIZES:
        found, wanted = (" / ".join(str(of[side]) for side in SPLITS) for of in (sizes, _SIZES))
        problems.note(
            f"these lists have {found} excerpts, the published fault-filtered split {wanted}: it is another one"
        )
    sides: dict[str, str] = {}
    for side, names in lists.items():
        for name in dict.fromkeys(names):
            if sides.setdefault(name, side) != side:
                problems.add("excerpt on two sides of the split (it gets none)", name)
                sides[name] = ""
    return sides


def _lists_of_torchaudio() -> dict[str, list[str]]:
    """Read the lists out of torchaudio's source: importing it would load PyTorch."""
    spec = importlib.util.find_spec("torchaudio")
    try:
        text = (Path(str(spec and spec.origin)).parent / "datasets" / "gtzan.py").read_text(encoding="utf-8")
        found = {node.targets[0].id: node.value for node in ast.parse(text).body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
        return {side: list(ast.literal_eval(found[f"filtered_{side}"])) for side in SPLITS}
    except (OSError, SyntaxError, AttributeError, KeyError, ValueError):  # not installed, or moved
        return {}


def _lists_in(folder: Path) -> dict[str, list[str]]:
    return {side: list(_names(folder / f"{side}_filtered.txt")) for side in SPLITS}


def _names(path: Path) -> Iterable[str]:
    """Read a list: ``blues/blues.00029.wav`` or ``blues.00029`` in a line, or the excerpt's number, from 1 to 1000."""
    if not path.is_file():
        raise LabelsError(
            f"there is no list {path}; gtzan:FOLDER reads train_filtered.txt, valid_filtered.txt and test_filtered.txt there"
        )
    with path.open("rb") as file:
        lines = file.read(2**20).splitlines()
    for number, line in enumerate(lines, 1):
        text = line.decode("utf-8", "replace").strip()
        if name := _NAME.search(text):
            yield name[1]
        elif text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= 1000:
            place, rest = divmod(int(text) - 1, 100)
            yield f"{GENRES[place]}.{rest:05d}"
        elif text:
            raise LabelsError(
                f"{path}, line {number}: {clean(text)[:60]!r} is no excerpt of GTZAN, such as blues.00029"
            )
