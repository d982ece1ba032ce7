"""The applications that are measured, a module a framework; each function there takes a place and gives a driver."""

from importlib import import_module

from bench.driving import Driver


def opened(application: str, place: str = "") -> Driver:
    """Open an application, such as `starlette:ours`, whose sessions are at a place, such as `redis://127.0.0.1`."""
    module, _, function = application.partition(":")
    driver: Driver = getattr(import_module(f"bench.subjects.{module}"), function)(place)
    return driver
