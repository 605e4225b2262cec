"""Jobs: started, followed, stopped."""

from fastapi import APIRouter
from starlette.responses import Response

from embedstore.web.answers import Answer
from embedstore.web.extension import Service
from embedstore.web.jobs import JobState
from embedstore.web.models import BUSY, JobRequest

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """Make them."""
    api, jobs = APIRouter(), service.jobs

    @api.get("/jobs", response_model=list[JobState])
    def list_jobs() -> Response:
        """List the jobs of this service, the newest first; the last hundred are remembered."""
        return Answer(jobs.list())

    @api.post("/jobs", response_model=JobState, status_code=202, responses=BUSY)
    def start_job(wanted: JobRequest) -> Response:
        """Start a job; one runs at a time."""
        return Answer(jobs.start(wanted.kind, wanted.options), 202)

    @api.delete("/jobs/{job}", response_model=JobState)
    def stop_job(job: str) -> Response:
        """Stop a job; one that has ended stays as it is."""
        return Answer(jobs.stop(job))

    return api
