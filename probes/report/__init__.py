"""Reports for people: a terminal table, one HTML page, Markdown, CSV, LaTeX, plots. Computes nothing."""

from __future__ import annotations

from probes.report.files import make_folder, write_report
from probes.report.terminal import print_report

__all__ = ["make_folder", "print_report", "write_report"]
