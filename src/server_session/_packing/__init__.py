"""What PyInstaller asks a package for: the folder of its hooks."""

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """Return where `hook-server_session.py` is."""
    return [*__path__]
