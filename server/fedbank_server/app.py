"""The coordinator's ``ServerApp``: the same object for a simulation and for a deployment."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedbank_server.campaign import Campaign


def make_server_app(campaign: Campaign) -> ServerApp:
    """A Flower ``ServerApp`` that runs ``campaign`` on whatever grid it is given."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        campaign.run(grid)

    return app
