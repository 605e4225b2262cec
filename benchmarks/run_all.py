"""Run every benchmark, or those that are named, and write benchmarks/RESULTS.md: claim, machine, versions, figures, day.

Run: python benchmarks/run_all.py [store_read ...]      (make bench)
A quick try, which writes nothing: python benchmarks/run_all.py serve_load --tracks 5000 --seconds 2
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path

HERE = Path(__file__).parent
NO_CLAIM = {"_common.py", "make_demo_corpus.py", "run_all.py"}


def measure(script: Path, options: list[str]) -> str:
    """Run one script; its section of the page."""
    claim, *rest = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem).split("\n\n")
    how = "\n\n".join(part for part in rest if not part.startswith("Run:"))
    print(f"{script.name}: {claim}", flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, script, *options], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script.name} failed (exit code {done.returncode}); benchmarks/RESULTS.md stays as it was")
    print(done.stdout, flush=True)
    day = datetime.now(UTC).date()
    took = f"`python benchmarks/{script.name}`, {time.monotonic() - began:.0f} s, {day}"
    return f"## {script.stem}\n\n{claim}\n\n{how}\n\n{done.stdout.strip()}\n\n{took}\n"


def main() -> None:
    """Write the page only if every script ran; sections of scripts that were not asked for stay as they are."""
    page = HERE / "RESULTS.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = {part.partition("\n")[0]: f"## {part}" for part in old.split("\n## ")[1:]}
    scripts = sorted(path for path in HERE.glob("*.py") if path.name not in NO_CLAIM)
    names = list(takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    options = sys.argv[1 + len(names) :]
    asked = set(names) or {script.stem for script in scripts}
    if unknown := asked - {script.stem for script in scripts}:
        sys.exit(f"there is no benchmark {min(unknown)!r}")
    if options:
        for script in scripts:
            if script.stem in asked:
                measure(script, options)
        return
    sections = [
        measure(script, []) if script.stem in asked else kept[script.stem].rstrip() + "\n"
        for script in scripts
        if script.stem in asked or script.stem in kept
    ]
    top = "# Results\n\nWritten by `make bench`. Machines differ and moments do: trust the ratios, not the seconds.\n"
    page.write_text("\n".join([top, *sections]), encoding="utf-8")
    print("written: benchmarks/RESULTS.md")


if __name__ == "__main__":
    main()
