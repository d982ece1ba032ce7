"""What checks need of the machine: the programs beside Python, and the Pythons."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from environments import ROOT

sys.path.insert(0, str(ROOT))

from tests.parts import PARTS

__all__ = ["PARTS", "PYTHONS", "find_pythons", "install_parts", "version_of"]

PYTHONS = tuple(f"3.{minor}" for minor in range(11, 16))


def install_parts(note: Callable[[str], None]) -> bool:
    """Install the programs that the machine lacks; return whether it may go without those that it still lacks."""
    missing = [part for part in PARTS.values() if part.find() is None]
    if missing:
        installer = str(ROOT / "scripts/lib/install-packages")
        names = [part.package for part in missing]
        print(f"Installing Debian's packages {', '.join(names)} …", flush=True)
        # One that is not to be had must not keep the others out.
        if subprocess.run([installer, *names], stdin=subprocess.DEVNULL, check=False).returncode and len(names) > 1:
            for name in names:
                subprocess.run([installer, name], stdin=subprocess.DEVNULL, check=False)
    lacking = [part.package for part in missing if part.find() is None]
    for name in lacking:
        note(f"{name} is missing and its tests are skipped; as root: apt-get install {name}")
    if not missing:
        print(f"All there: {', '.join(PARTS)}")
    return not (lacking and os.environ.get("CI") == "true")


def find_pythons() -> dict[str, str]:
    """Return the Pythons that the machine has, one for each supported version."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    roots += [Path(folder).parent for folder in os.environ["PATH"].split(os.pathsep) if folder.endswith("/shims")]
    found: dict[str, str] = {}
    for version in PYTHONS:
        ours = re.compile(re.escape(version) + r"\.(\d+)")
        of_pyenv = [
            (int(match[1]), str(folder / "bin" / f"python{version}"))
            for root in roots
            if (root / "versions").is_dir()
            for folder in (root / "versions").iterdir()
            if (match := ours.fullmatch(folder.name))
        ]
        for python in (*(path for _, path in sorted(of_pyenv, reverse=True)), f"python{version}"):
            if _can_make_environments(python):
                found[version] = python
                break
    return found


def version_of(python: str) -> str:
    """Return the version of a Python, as in `3.11`."""
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def _can_make_environments(python: str) -> bool:
    command = [python, "-c", "import ensurepip, venv"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False
