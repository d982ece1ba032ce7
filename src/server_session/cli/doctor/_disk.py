"""What can be wrong with a disk, where files hold sessions."""

import re
import shutil
import stat
from pathlib import Path
from typing import Final

from server_session.cli._output import size_of
from server_session.cli.doctor._findings import Report, Severity

__all__ = ["look_at_kind", "look_at_rights", "look_at_room"]

_LEAST_ROOM: Final = 64 << 20
_OVER_A_NETWORK: Final = frozenset({"9p", "afs", "ceph", "cifs", "fuse.sshfs", "glusterfs", "nfs", "nfs4", "smb3"})
_MOUNTS: Final = Path("/proc/self/mounts")


def look_at_room(path: Path, report: Report) -> None:
    """Look at how much may still be written."""
    free = shutil.disk_usage(path).free
    report.facts["free_bytes"] = free
    if free < _LEAST_ROOM:
        report.find(
            "disk_low", Severity.ERROR, f"the disk of {path} has {size_of(free)} left", "make room there, or move it"
        )


def look_at_rights(path: Path, report: Report) -> None:
    """Look at who may read sessions: what is in a directory, or a file that its own directory does not hide."""
    mode = stat.S_IMODE(path.stat().st_mode)
    ways = (mode,) if path.is_dir() else (mode, path.parent.stat().st_mode)
    if all(way & (stat.S_IRWXG | stat.S_IRWXO) for way in ways):
        report.find(
            "open_to_others",
            Severity.WARNING,
            f"others of this machine may look into {path} (mode {mode:o})",
            f"chmod 700 {path}" if path.is_dir() else f"chmod 600 {path}*, and a umask of 077 before it is made",
        )


def look_at_kind(path: Path, report: Report, mounts: Path = _MOUNTS) -> None:
    """Look at whether locks hold there."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return
    resolved = path.resolve()
    # A blank in a path is written as \040. The deepest mount above the path counts, of two in one place the later.
    mounted = [(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), where), kind) for _, where, kind, *_ in lines]
    above = [(len(where), kind) for where, kind in mounted if resolved.is_relative_to(where)]
    if above and max(above, key=lambda one: one[0])[1] in _OVER_A_NETWORK:
        report.find(
            "network_disk",
            Severity.ERROR,
            f"{path} lies on a network file system, which does not keep locks dependably: writes can be lost",
            "keep it on a local disk, or take Redis or a database for several machines",
        )
