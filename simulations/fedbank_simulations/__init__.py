"""Single-machine simulation of a consortium with the same server and client apps."""
