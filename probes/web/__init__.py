"""What the service of `embedstore.web` is told about probes: studies as pages, jobs that make them, guesses for sounds."""

from __future__ import annotations

from embedstore.registry import require
from embedstore.web.extension import Extension
from embedstore.web.offers import Job
from embedstore.web.server import INSTALL

__all__ = ["extension"]


def extension() -> Extension:
    """Make it.

    Raises
    ------
    MissingDependencyError
        The extra ``web`` is not installed.
    """
    require("fastapi", INSTALL)
    from probes.web.guess import guess
    from probes.web.models import SAMPLES
    from probes.web.routes import routes
    from probes.web.work import AuditOptions, ProbeOptions

    jobs = {"probe": Job("probes.web.work:probe", ProbeOptions), "audit": Job("probes.web.work:audit", AuditOptions)}
    return Extension(routes, jobs, guess, SAMPLES)
