"""What goes wrong with a request: a problem for whoever asked, a line for the operator, readiness for the balancer."""

from starlette.requests import Request

from fedbank.evidence.errors import EvidenceError
from fedbank.serving.sharing.redis_link import SharedStoreError
from fedbank.serving.store.database import RecordsError
from fedbank_client.serving.edge import LOG, REQUEST_ID, where
from fedbank_client.serving.problems import INTERNAL, Problem, problem_of

_KEEPING = (RecordsError, EvidenceError, SharedStoreError)
"""Their words are ours, quote no customer, and say what somebody has to mend."""


def told(request: Request, error: Exception) -> Problem:
    """The problem that ``error`` is; it is in the log, and the service is not ready while nothing can be kept."""
    problem, number = problem_of(error), getattr(request.state, REQUEST_ID)
    if problem.kind is INTERNAL:
        LOG.error("request %s failed: %s", number, where(error))
    elif isinstance(error, _KEEPING):
        request.app.state.service.keeping.failed()
        LOG.warning("request %s: %s. %s", number, problem.kind.name, error)
    elif problem.kind.status == 503:
        LOG.warning("request %s: %s", number, problem.kind.name)
    return problem
