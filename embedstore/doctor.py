"""What is installed, what is missing, and who owns our names."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

from embedstore.encoders.base import import_torchaudio
from embedstore.encoders.products import products_for
from embedstore.errors import MissingDependencyError
from embedstore.lanes import cores
from embedstore.registry import known

__all__ = ["diagnose", "plugins"]

DISTRIBUTION = "embedstore-mir"
OURS = ("cli", "embedstore", "probes")
LIBRARIES = (
    "click",
    "faiss-cpu",
    "h5py",
    "matplotlib",
    "numpy",
    "rich",
    "scikit-learn",
    "soundfile",
    "soxr",
    "torch",
    "torchaudio",
    "transformers",
)
ROOMS = {
    "encoders": "embedstore.encoders",
    "indexes": "embedstore.index",
    "probes": "probes",
    "labels": "embedstore.labels",
}


def plugins() -> dict[str, dict[str, str]]:
    """List every room's registered names and the code behind them; imports none of it."""
    return {room: known(room, importlib.import_module(module).BUILTIN) for room, module in ROOMS.items()}


def diagnose() -> dict[str, Any]:
    """Look at the installation.

    Returns
    -------
    dict
        ``ok``, ``problems`` (each with its remedy), ``versions``, ``paths``, ``owners``, ``devices``, ``cores``,
        ``products`` (whose matrix products the fast path uses on the CPU), ``ffmpeg``, ``plugins``.
    """
    problems: list[str] = []
    findings = {
        "versions": _versions(problems),
        "paths": {name: getattr(importlib.util.find_spec(name), "origin", None) for name in OURS},
        "owners": _owners(problems),
        "devices": _devices(problems),
        "cores": cores(),
        "products": _products(),
        "ffmpeg": _ffmpeg(),
        "plugins": {room: sorted(names) for room, names in plugins().items()},
    }
    return {"ok": not problems, "problems": problems, **findings}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions(problems: list[str]) -> dict[str, str | None]:
    found = {name: _version(name) for name in (DISTRIBUTION, *LIBRARIES)}
    if found["faiss-cpu"] is None and (gpu := _version("faiss-gpu")) is not None:
        found["faiss-gpu"] = gpu
        del found["faiss-cpu"]
    elif _version("faiss-gpu") is not None:
        problems.append(
            "faiss-cpu and faiss-gpu own the same files; run: pip uninstall -y faiss-cpu faiss-gpu, then install one"
        )
    missing = [name for name, number in found.items() if number is None]
    if missing:
        problems.append(f"not installed: {', '.join(missing)}; run: pip install {' '.join(missing)}")
    return {"python": platform.python_version(), **found}


def _owners(problems: list[str]) -> dict[str, list[str]]:
    """Tell which distributions own our top-level names: pip lets a later install overwrite `cli.py` or `probes/`."""
    by_name = packages_distributions()
    owners = {name: sorted(set(by_name.get(name, []))) for name in OURS}
    for name, who in owners.items():
        strangers = [distribution for distribution in who if distribution != DISTRIBUTION]
        if strangers:
            problems.append(
                f"{name!r} is also owned by {', '.join(strangers)}; run: pip uninstall {' '.join(strangers)} "
                f"and pip install --force-reinstall --no-deps {DISTRIBUTION}"
            )
    return owners


def _devices(problems: list[str]) -> list[str]:
    try:
        import_torchaudio()
    except MissingDependencyError as error:
        problems.append(str(error))
        return []
    import torch

    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ["cpu", *names, *(["mps (untested)"] if torch.backends.mps.is_available() else [])]


def _products() -> str | None:
    return products_for("cpu").name if importlib.util.find_spec("torch") else None


def _ffmpeg() -> dict[str, str | None]:
    """Tell whether m4a, aac and wma can be decoded; everything else does without FFmpeg."""
    remedy: str | None = None
    if importlib.util.find_spec("torchcodec") is None:
        remedy = f'm4a, aac and wma need: pip install "{DISTRIBUTION}[codecs]", and FFmpeg'
    else:
        try:
            importlib.import_module("torchcodec.decoders")
        except (ImportError, OSError, RuntimeError):
            remedy = "torchcodec finds no FFmpeg libraries; install FFmpeg (Debian: apt-get install ffmpeg; macOS: brew install ffmpeg)"
    return {
        "program": shutil.which("ffmpeg"),
        "torchcodec": _version("torchcodec"),
        "missing": remedy,
        "python": sys.executable,
    }
