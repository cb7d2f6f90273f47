"""Flower's own simulation engine (Ray), for the same two apps, on one machine or a Ray cluster."""

import os
import warnings
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedbank.errors import RunError


def run_ray(
    server_app: ServerApp,
    client_app: ClientApp,
    num_nodes: int,
    *,
    address: str | None,
    cpus_per_bank: float,
    gpus_per_bank: float,
) -> None:
    """Run both apps on Ray: ``address`` names a running cluster, ``None`` starts one on this machine.

    Flower makes as many actors as fit the resources; every actor keeps its base model between messages.
    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from flwr.simulation import run_simulation
    except ImportError as error:
        raise RunError(
            "Expected Ray for simulation.backend=ray, got none. Install it with: pip install 'fedbank[ray]', "
            "or use simulation.backend=inline."
        ) from error
    init_args: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    if address is not None:
        init_args["address"] = address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run_simulation(
                server_app,
                client_app,
                num_supernodes=num_nodes,
                backend_config={
                    "init_args": init_args,
                    "client_resources": {"num_cpus": cpus_per_bank, "num_gpus": gpus_per_bank},
                },
            )
        finally:
            ray.shutdown()
