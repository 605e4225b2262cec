"""The README tells the truth: its Python runs, its commands exist, its command reference is what `--help` says.

Run as a program (`make docs`) it writes the command reference again.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

import cli

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- cli:begin -->\n", "<!-- cli:end -->"
GENRES = {"reel": 300, "jig": 900, "trecento": 2500}  # of the demo; each with its pitch here


def blocks(language: str, page: Path = README) -> list[str]:
    """Text of the fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_python(page: Path) -> None:
    """Run the Python blocks of a page one after the other, in one namespace."""
    code = blocks("python", page)
    assert code, f"{page.name} shows no Python"
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(code, 1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), names)  # noqa: S102 - our own page


def commands(program: str) -> list[list[str]]:
    """Arguments of every `$ program ...` in the console blocks, up to a pipe or a redirection."""
    found = []
    for line in "".join(blocks("console")).replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(re.split(r"\s[|>&;]", line[2:])[0], comments=True)
            words = words[next((i for i, word in enumerate(words) if "=" not in word), 0) :]  # settings come before
            if words and Path(words[0]).name == program:
                found.append(words[1:])
    return found


def reference() -> str:
    """Write the help of every command as Markdown."""
    parent = click.Context(cli.main, info_name="embedstore", **cli.main.context_settings)
    return "\n" + "\n".join(help_below(cli.main, parent)) + "\n"


def help_below(group: click.Group, parent: click.Context) -> list[str]:
    """Write the help of each command of a group, and of those below it."""
    text = []
    for name, command in group.commands.items():
        context = click.Context(command, parent, name, terminal_width=100)
        text.append(f"### `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n")
        text += help_below(command, context) if isinstance(command, click.Group) else []
    return text


def split_readme() -> tuple[str, str, str]:
    """Cut the README into what stands before, in and after the generated part."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    inside, mark, after = rest.partition(END)
    assert mark, f"README.md has no {BEGIN.strip()} ... {END}"
    return before + BEGIN, inside, mark + after


def test_command_reference_is_what_help_says():
    """The generated part is fresh; `make docs` writes it again."""
    assert split_readme()[1] == reference(), "run: make docs"


def test_commands_in_the_readme_exist():
    """Each `$ embedstore ...` names a command and options that there are."""
    shown = commands("embedstore")
    assert shown, "the README shows no command"
    for line in shown:
        words = line
        if words[0].startswith("-"):
            continue
        command = cli.main
        while isinstance(command, click.Group):
            assert words, line
            assert words[0] in command.commands, line
            command, name, words = command.commands[words[0]], words[0], words[1:]
        try:
            command.make_context(name, words)
        except click.exceptions.Exit:  # --help
            continue
        except click.UsageError as error:
            pytest.fail(f"embedstore {shlex.join(line)}: {error.message}")


def test_make_targets_in_the_readme_exist():
    """Each `make NAME` is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_links_to_files_lead_somewhere():
    """Each relative link names a file of this folder."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture
def demo_folder(tmp_path, monkeypatch) -> Path:
    """Leave behind what `make demo` does, but small: demo/audio and demo/store, below the working directory."""
    from embedstore import build

    rng = np.random.default_rng(0)
    lines = ["path,genre,artist,title"]
    for genre, pitch in GENRES.items():
        for number in range(10):
            seconds = np.arange(3 * 16000) / 16000
            sound = 0.3 * np.sin(2 * np.pi * pitch * (1 + 0.02 * (number % 5)) * seconds) + rng.normal(
                0, 0.05, len(seconds)
            )
            path = f"{genre}/{genre}_{number:02d}.{'mp3' if number % 2 else 'ogg'}"
            (tmp_path / "demo" / "audio" / genre).mkdir(parents=True, exist_ok=True)
            soundfile.write(tmp_path / "demo" / "audio" / path, sound, 16000)
            lines.append(f"{path},{genre},Artist {number % 5},Song {genre} {number}")
    (tmp_path / "demo" / "audio" / "metadata.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    build("demo/audio", "demo/store", encoder="random:musicnn", labels="demo/audio/metadata.csv", jobs=1)
    return tmp_path


@pytest.mark.slow
def test_python_in_the_readme_runs(demo_folder):
    """It runs where `make demo` was run."""
    run_python(README)


def test_the_plug_in_in_contributing_runs():
    """The encoder shown to contributors is complete and passes the conformance suite."""
    run_python(ROOT / ".github" / "CONTRIBUTING.md")


if __name__ == "__main__":
    before, _, after = split_readme()
    README.write_text(before + reference() + after, encoding="utf-8")
    sys.stdout.write("README.md: command reference written\n")
