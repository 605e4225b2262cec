"""The wheel, as strangers get it: what is in it, and that it runs without this folder."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
import soundfile

import embedstore

ROOT = Path(__file__).parent.parent
OURS = ("cli", "embedstore", "probes")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WHERE = "import json, cli, embedstore, probes; print(json.dumps([m.__file__ for m in (cli, embedstore, probes)]))"
OWNERS = "import json; from importlib.metadata import packages_distributions as p; print(json.dumps(p()))"
SKIP = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "/build", "demo", "dist")


def package_files() -> set[str]:
    """List the files of this folder that must be in the wheel."""
    folders = [path for name in ("embedstore", "probes") for path in (ROOT / name).rglob("*")]
    endings = (".py", ".md", ".html", ".js", ".css", ".svg")
    wanted = [path for path in folders if path.suffix in endings or path.name == "py.typed"]
    return {path.relative_to(ROOT).as_posix() for path in wanted} | {"cli.py"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Make a folder with an sdist, and a wheel made from that sdist."""
    source = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, source, ignore=SKIP)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], check=True, capture_output=True, text=True)
    return out


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    """Give the wheel's path."""
    (path,) = built.glob("*.whl")
    return path


class Clean:
    """A new environment that holds the wheel; the libraries it needs are borrowed from ours, behind its own."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.prefix = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.prefix], check=True)
        self.python = self.prefix / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, wheel], check=True)
        (self.site,) = self.prefix.glob("lib/python*/site-packages")
        # a folder named in a .pth goes to the end of sys.path, and its own .pth files (our editable install) are not read
        (self.site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()

    def run(self, *command: str | Path, code: int = 0) -> str:
        """Run a program of the environment from another folder; return what it printed."""
        settings = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "EMBEDSTORE", "VIRTUAL_ENV"))}
        done = subprocess.run(
            [self.prefix / "bin" / command[0], *command[1:]],
            cwd=self.elsewhere, env=settings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory, wheel) -> Clean:
    """Make one such environment for all tests here."""
    return Clean(tmp_path_factory.mktemp("clean"), wheel)


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel):
    """All modules, py.typed, the format page and the licence are in; tests and benchmarks are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == package_files()
    assert {"embedstore/py.typed", "probes/py.typed", "embedstore/store/FORMAT.md"} <= ours
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_sdist_holds_what_the_wheel_is_made_of(built):
    """Whoever builds from source gets every file of the package, the licence and the README."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() | {"LICENSE", "README.md", "pyproject.toml"} <= names


@pytest.mark.slow
def test_the_wheel_runs_from_another_folder(clean):
    """The modules that run are the wheel's, and the command says its version."""
    for file in json.loads(clean.run("python", "-c", WHERE)):
        assert Path(file).is_relative_to(clean.site)
    assert clean.run("embedstore", "--version").strip() == f"embedstore {embedstore.__version__}"
    assert "build" in clean.run("embedstore", "--help")


@pytest.mark.slow
def test_the_wheel_works(clean):
    """It stores sound and finds it again, with the decoder's worker process and all libraries in play."""
    for name, pitch in (("low", 200), ("high", 2000), ("higher", 2100)):
        sound = 0.3 * np.sin(2 * np.pi * pitch * np.arange(16000 * 3) / 16000)
        soundfile.write(clean.elsewhere / f"{name}.wav", sound, 16000)
    clean.run("embedstore", "build", ".", "--encoder", "mfcc", "--labels", "none")
    found = json.loads(clean.run("embedstore", "search", "high.wav", "-k", "1", "--json"))
    assert Path(found["results"][0]["path"]).name == "higher.wav"


@pytest.mark.slow
def test_nobody_else_owns_our_names(clean):
    """`cli`, `embedstore` and `probes` belong to embedstore-mir alone: pip lets a stranger's file of that name win."""
    owners = json.loads(clean.run("python", "-c", OWNERS))
    assert {name: set(owners[name]) for name in OURS} == {name: {PROJECT["name"]} for name in OURS}


def imported_libraries() -> set[str]:
    """List the top-level names that the package imports anywhere, less the standard library's and its own."""
    names = set()
    for file in package_files():
        for node in ast.walk(ast.parse((ROOT / file).read_text())) if file.endswith(".py") else []:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - set(OURS)


def test_every_import_comes_with_the_package():
    """Each library that the code imports is a dependency, or a dependency of one; but torchcodec, and in the web room."""

    def names(lines: list[str]) -> set[str]:
        return {
            re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in lines if "extra ==" not in line
        }

    asked = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["web"])
    brought = asked | {"torchcodec"}
    brought |= {name for dependency in asked for name in names(requires(dependency) or [])}
    owners = packages_distributions()
    assert {library for library in imported_libraries() if not brought & names(owners.get(library, [library]))} == set()
