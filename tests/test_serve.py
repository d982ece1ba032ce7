"""The fixture `serve`."""

import gc
import socket
import ssl

import pytest

from tests.browser.csrf.certificate import make_certificate


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.once
def test_a_server_that_ends_leaves_no_connection_open_whose_visitor_says_no_good_bye_by_tls(serve, tmp_path):
    made = make_certificate(tmp_path, "localhost")
    served = serve(app, lifespan="off", timeout_graceful_shutdown=1, **made)
    context = ssl.create_default_context(cafile=made["ssl_certfile"])
    with (
        socket.create_connection(("127.0.0.1", served.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as visitor,
    ):
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert visitor.recv(12) == b"HTTP/1.1 204"
        served.stop()
    # What is open still is warned of, and fails this test.
    gc.collect()
