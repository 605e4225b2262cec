"""Importing is cheap: `import embedstore, probes, cli` and every `--help` load no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import cli
import embedstore
import probes

HEAVY = {
    "faiss",
    "h5py",
    "matplotlib",
    "pyarrow",
    "pymilvus",
    "scipy",
    "sklearn",
    "soundfile",
    "soxr",
    "torch",
    "torchaudio",
    "torchcodec",
    "transformers",
    "umap",
}
TELL = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr)); "


def heavy_after(code: str, *arguments: str) -> set[str]:
    """Run code in a fresh interpreter; return the heavy libraries that it loaded."""
    command = [sys.executable, "-c", TELL + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(done.stderr.splitlines()[-1]))


def test_imports_are_light():
    """The three roots load none of the libraries that take seconds."""
    assert (
        heavy_after("import embedstore, embedstore.errors, embedstore.types, embedstore.registry, probes, cli") == set()
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["build", "--help"], ["probe", "-h"], ["export", "-h"]]
)
def test_help_is_light(arguments):
    """Help and version load none of them either."""
    assert heavy_after("import cli; cli.main()", *arguments) == set()


def test_the_check_can_fail():
    """A program that does load one is caught."""
    assert heavy_after("import cli, h5py") == {"h5py"}


@pytest.mark.parametrize("package", [embedstore, probes], ids=lambda package: package.__name__)
def test_public_names_resolve(package):
    """Each name in `__all__` is there, is listed by `dir`, and has a docstring if it is code."""
    for name in package.__all__:
        value = getattr(package, name)
        assert name in dir(package)
        assert not callable(value) or value.__doc__, f"{package.__name__}.{name} has no docstring"


def test_every_command_has_help():
    """Each command says in one sentence what it is for."""
    assert [name for name, command in cli.main.commands.items() if not (command.help or "").strip()] == []
