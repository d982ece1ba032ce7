"""Serves the shop, and beside it a site of somebody else's: `python -m examples.demo --help`."""

import argparse
import os
import socket
import threading

import uvicorn

from examples.demo.partner import create_partner
from examples.demo.settings import Settings, is_one_process, place_of
from server_session import ConfigurationError, Sessions


def main() -> None:
    arguments = read_arguments()
    # The same machine by its other name: to a browser, another site.
    other = "127.0.0.1" if arguments.host == "localhost" else "localhost"
    settings = Settings(
        store=arguments.store,
        shop=f"http://{arguments.host}:{arguments.port}",
        partner=f"http://{other}:{arguments.partner_port}",
    )
    os.environ.update(settings.as_environment())

    partner = uvicorn.Config(
        create_partner(settings.shop), host="127.0.0.1", port=arguments.partner_port, log_level="warning"
    )
    threading.Thread(target=uvicorn.Server(partner).run, name="partner", daemon=True).start()

    print(f"The shop:          {settings.shop}")
    print(f"Another site:      {settings.partner}")
    print(f"Sessions are in:   {place_of(settings.store)}")
    print("End it with Ctrl+C.", flush=True)
    uvicorn.run(
        "examples.demo.shop:create_shop",
        factory=True,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        # A browser stays with the process that it has a connection to; closed, the next request may go to the other.
        headers=[("connection", "close")] if arguments.workers > 1 else [],
        log_level="warning",
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="A small tea shop on server-session.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to serve on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the shop's port (%(default)s)")
    parser.add_argument("--partner-port", type=int, help="the other site's port (by default the shop's and one)")
    parser.add_argument("--store", default="memory:", metavar="URL", help="where sessions are kept (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="how many processes serve the shop (%(default)s)")
    arguments = parser.parse_args()
    arguments.partner_port = arguments.partner_port or arguments.port + 1
    if arguments.workers < 1:
        parser.error("--workers: at least one process must serve")
    if arguments.workers > 1 and is_one_process(arguments.store):
        parser.error(
            f"--workers {arguments.workers} --store memory: the memory store is one process's, so a visitor would lose "
            "the session with each change of process; use --store file:DIR or redis://127.0.0.1:6379/0"
        )
    try:
        Sessions(session_store=arguments.store)
    except ConfigurationError as error:
        parser.error(f"--store: {error}")
    for option, host, port in (
        ("--port", arguments.host, arguments.port),
        ("--partner-port", "127.0.0.1", arguments.partner_port),
    ):
        try:
            socket.create_server((host, port)).close()
        except (OSError, OverflowError) as error:
            parser.error(f"{option}: nothing can be served on port {port} of {host}: {error}")
    return arguments


if __name__ == "__main__":
    main()
