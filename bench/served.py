"""The application that the environment names, for a server to import: `uvicorn bench.served:app`, `gunicorn …`."""

import os

from bench.driving import AsgiDriver, WsgiDriver
from bench.subjects import opened

driver = opened(os.environ["BENCH_APPLICATION"], os.environ["BENCH_PLACE"])
assert isinstance(driver, AsgiDriver | WsgiDriver)
app = driver.app
