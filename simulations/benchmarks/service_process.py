"""The service of :mod:`simulations.benchmarks.service_world` behind its real HTTP, as a process of its own.

``python -m simulations.benchmarks.service_process FOLDER``: prints its port and serves until its input ends. Customers
come with tokens of the development issuer, whose key lies in FOLDER.
"""

import asyncio
import sys
from pathlib import Path

from fedbank.serving.access.development_issuer import DevelopmentIssuer
from fedbank.serving.access.tokens import TokenVerifier
from fedbank.serving.rollout.desk import Offered
from fedbank.serving.store.feedback import FeedbackDesk
from fedbank.serving.store.jobs import Jobs
from fedbank_client.serving.app import make_app
from fedbank_client.serving.limits import Rates
from fedbank_client.serving.server import make_server
from fedbank_client.serving.service import Service
from simulations.benchmarks.service_world import FixedEngine, Folders, World, service

HOST, AUDIENCE, RELEASE = "127.0.0.1", "fedbank-benchmark", "spring-1"


def behind_http(world: World, folder: Path) -> Service:
    """All that the routes need; rates that nobody reaches."""
    issuer = DevelopmentIssuer(folder, HOST)
    return Service(
        answering=world.answering,
        verifier=TokenVerifier(issuer.policy(AUDIENCE), issuer.keys()),
        key=world.key,
        records=world.records,
        conversations=world.desks.conversations,
        feedback=FeedbackDesk(world.records),
        jobs=Jobs(world.records),
        releases=world.releases,
        monitor=world.desks.monitor,
        engine=world.desks.engine,
        audit=world.desks.audit,
        evidence=world.evidence,
        rates=Rates(1e6, 1_000_000),
    )


async def serve(folder: Path) -> None:
    """Until standard input ends."""
    source = Folders({RELEASE: Offered(RELEASE, "a" * 64, folder)}, RELEASE)
    async with service(folder, FixedEngine(), source) as world:
        routes = behind_http(world, folder)
        server = make_server(make_app(routes), routes.limits, host=HOST)
        running = asyncio.create_task(server.serve())
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        sys.stdout.write(f"{server.servers[0].sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await running
        routes.store.close()
        routes.tokens.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
