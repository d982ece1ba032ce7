"""One address before several servers: a proxy that chooses by the path, for tests alone."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping

__all__ = ["one_address"]

_HEAD = b"\r\n\r\n"


@contextlib.contextmanager
def one_address(port: int, servers: Mapping[str, int]) -> Iterator[None]:
    """Serve 127.0.0.1 at a port by the servers whose path's beginning fits, the first that does.

    Each request has a connection of its own.
    """

    begun = set[asyncio.Task[None] | None]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            line, _, headers = (await reader.readuntil(_HEAD)).partition(b"\r\n")
            path = line.split(b" ")[1].decode()
            behind = next(one for start, one in servers.items() if path.startswith(start))
            kept = [one for one in headers.split(b"\r\n") if not one.lower().startswith(b"connection:")]
            upstream, downstream = await asyncio.open_connection("127.0.0.1", behind)
            with contextlib.closing(downstream):
                downstream.write(b"\r\n".join([line, b"Connection: close", *kept]))
                sending = asyncio.create_task(pass_on(reader, downstream))
                await pass_on(upstream, writer)
                sending.cancel()

    async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        begun.add(asyncio.current_task())
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(answer, "127.0.0.1", port), loop).result()

    async def end() -> None:
        # A server that is closed drops what it has accepted and not yet begun.
        for listener in server.sockets:
            loop.remove_reader(listener)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others & begun:
                task.cancel()
            await asyncio.sleep(0)
        server.close()

    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
