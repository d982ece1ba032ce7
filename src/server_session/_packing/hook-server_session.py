# ruff: noqa: N999 - the name is PyInstaller's
# What a program needs of this package beside what PyInstaller sees to be imported: what is imported late, and the files
# that are read.
from pathlib import Path
from pkgutil import iter_modules

PACKAGE = Path(__file__).parents[1]

# Stores are opened by URL.
stores = [f"server_session.stores.{found.name}" for found in iter_modules([str(PACKAGE / "stores")])]
hiddenimports = ["server_session.http.frameworks", *stores]
datas = [
    (str(PACKAGE / folder / name), f"server_session/{folder}")
    for folder, name in ((".", "csrf.js"), ("stores/redis", "redis.lua"))
]
