"""Run every benchmark and write benchmarks/RESULTS.md: claim, machine, versions and figures of one day, side by side.

Run: python benchmarks/run_all.py      (make bench)
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
NO_CLAIM = {"_common.py", "make_demo_corpus.py", "run_all.py"}


def measure(script: Path) -> str:
    """Run one script; its section of the page."""
    claim, *rest = (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or script.stem).split("\n\n")
    how = "\n\n".join(part for part in rest if not part.startswith("Run:"))
    print(f"{script.name}: {claim}", flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script.name} failed (exit code {done.returncode}); benchmarks/RESULTS.md stays as it was")
    print(done.stdout, flush=True)
    took = f"`python benchmarks/{script.name}`, {time.monotonic() - began:.0f} s"
    return f"## {script.stem}\n\n{claim}\n\n{how}\n\n{done.stdout.strip()}\n\n{took}\n"


def main() -> None:
    """Write the page only if every script ran."""
    scripts = sorted(path for path in HERE.glob("*.py") if path.name not in NO_CLAIM)
    sections = [measure(script) for script in scripts]
    day = datetime.now(UTC).date()
    top = f"# Results\n\nWritten by `make bench` on {day}. Machines differ and moments do: trust the ratios, not the seconds.\n"
    (HERE / "RESULTS.md").write_text("\n".join([top, *sections]), encoding="utf-8")
    print("written: benchmarks/RESULTS.md")


if __name__ == "__main__":
    main()
