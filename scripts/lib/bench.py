"""Makes the environment of the benchmark, and runs it there: what `scripts/bench` runs."""

import os
import subprocess
import sys

from environments import ROOT, SetUpError, pinned, prepare, prepare_packages

sys.path.insert(0, str(ROOT))

from tests.parts import PARTS

NAME = ".venv-bench"
SERVERS = ("redis-server", "postgresql")
# next-server-session needs uuid, and does not say so.
PACKAGES = ("express@5.3.0", "express-session@1.19.0", *pinned("next-server-session", "uuid"))


def main() -> None:
    """Set up, and become the benchmark; what cannot be had here is named there as not measured."""
    missing = [name for name in SERVERS if PARTS[name].find() is None]
    if missing:
        print(f"Installing Debian's packages {', '.join(missing)} …", flush=True)
        subprocess.run([ROOT / "scripts/lib/install-packages", *missing], stdin=subprocess.DEVNULL, check=False)
    try:
        python = prepare(NAME, "bench", sys.executable)
    except SetUpError as error:
        sys.exit(str(error))
    try:
        prepare_packages(NAME, *PACKAGES)
    except SetUpError as error:
        print(error, flush=True)
    os.chdir(ROOT)
    os.execv(python, [str(python), "-m", "bench", *sys.argv[1:]])  # noqa: S606 - its own program


if __name__ == "__main__":
    main()
