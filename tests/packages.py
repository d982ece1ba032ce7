"""The package as it is given away: built from the tree, without a network."""

import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE

__all__ = ["build_sdist", "build_wheel"]

ROOT = Path(__file__).parents[1]


def build_wheel(folder: Path, tree: Path = ROOT) -> Path:
    """Build the wheel of a tree into a folder."""
    return _build("wheel", folder, tree)


def build_sdist(folder: Path) -> Path:
    """Build the source distribution into a folder."""
    return _build("sdist", folder, ROOT)


def _build(target: str, folder: Path, tree: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=tree, capture_output=True, timeout=PATIENCE, check=True)
    (built,) = folder.iterdir()
    return built
