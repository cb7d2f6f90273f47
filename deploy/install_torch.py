"""Installs the pinned PyTorch: the CUDA build where there is an NVIDIA GPU, the CPU build elsewhere.

On Linux the ordinary ``pip install torch`` brings several gigabytes of CUDA libraries. Without a GPU this script
asks pip first what it would take, and where that is the CUDA build it lets uv choose, which knows PyTorch's own
CPU packages. Standard library only: it runs before anything else is installed.

usage: python deploy/install_torch.py VERSION
"""

import importlib.metadata
import json
import shutil
import subprocess
import sys

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


def main(version: str) -> int:
    """Install ``torch==version`` unless it is there; returns the exit code of the installer."""
    requirement = f"torch=={version}"
    if _installed() == version:
        return 0
    if _has_gpu():
        print("An NVIDIA GPU is present: installing the CUDA build of PyTorch.", flush=True)  # noqa: T201
        return subprocess.call([*PIP, "install", requirement])
    print("No NVIDIA GPU found: installing the CPU build of PyTorch.", flush=True)  # noqa: T201
    if not _would_bring_cuda(requirement):
        return subprocess.call([*PIP, "install", requirement])
    subprocess.check_call([*PIP, "install", "uv"])
    return subprocess.call(
        [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, "--torch-backend=cpu", requirement]
    )


def _installed() -> str | None:
    try:
        return importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).stdout.startswith(b"GPU")


def _would_bring_cuda(requirement: str) -> bool:
    """Whether pip's choice for ``requirement`` depends on CUDA packages; nothing is downloaded to find out."""
    if sys.platform != "linux":
        return False
    command = [*PIP, "install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", requirement]
    report = subprocess.run(command, capture_output=True, text=True)
    if report.returncode != 0:
        return True
    (package,) = json.loads(report.stdout)["install"]
    needs = package["metadata"].get("requires_dist", [])
    return any(need.startswith(("nvidia-", "cuda-")) for need in needs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
