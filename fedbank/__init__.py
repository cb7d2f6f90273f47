"""FedBank: federated learning across banks, differentially private at the customer."""

__version__ = "0.1.0"
