"""Studies and benchmarks on top of the simulator; not installed with the package."""
