"""What is given away: the wheel and the source distribution, and what they are in an empty environment."""

import email
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import msgspec
import pytest

from tests.packages import ROOT, build_sdist, build_wheel
from tests.patience import PATIENCE

pytestmark = pytest.mark.once

long = pytest.mark.skipif(not os.environ.get("SERVER_SESSION_ALL"), reason="a long form: scripts/test --all")

SOURCE = ROOT / "src"
# What needs no framework and no driver, and the two files that are no Python: the script, and the mark of types.
IMPORTS = """
from importlib.resources import files
import server_session.adapters, server_session.asgi, server_session.sync, server_session.wsgi
from server_session import FileSessionStore, configure, csrf_script
configure()
assert "fetch" in csrf_script()
assert files("server_session").joinpath("py.typed").is_file()
print(server_session.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def contents_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def metadata_of(wheel: Path) -> email.message.Message:
    (text,) = (text for name, text in contents_of(wheel).items() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(text)


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    files = (file for file in SOURCE.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    expected = {file.relative_to(SOURCE).as_posix(): file.read_bytes() for file in files}
    held = {name: text for name, text in contents_of(wheel).items() if ".dist-info/" not in name}
    assert held == expected
    assert {"server_session/py.typed", "server_session/csrf.js"} <= held.keys()


@long
def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(build_sdist(tmp_path), tmp_path, filter="data")
    (tree,) = (folder for folder in tmp_path.iterdir() if folder.is_dir())
    (tmp_path / "wheel").mkdir()
    assert contents_of(build_wheel(tmp_path / "wheel", tree)) == contents_of(wheel)


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert metadata_of(wheel)["Version"] == version
    places = [ROOT / "README.md", ROOT / "docs/conf.py", *SOURCE.rglob("*.py")]
    assert not [place for place in places if version in place.read_text()]


def test_an_index_shows_the_readme(wheel: Path) -> None:
    from readme_renderer import markdown

    metadata = metadata_of(wheel)
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = markdown.render(metadata.get_payload(decode=True).decode())
    assert page is not None
    assert not [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith(("https:", "#"))]


def test_it_is_imported_from_where_there_is_nothing_else(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(wheel, tmp_path, "zip")
    # The only package that it needs.
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    script = f"import sys; sys.path.append({str(tmp_path)!r})\n{IMPORTS}"
    # Without site there are no packages of this environment.
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert printed.stdout.startswith(str(tmp_path))


@long
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14", "3.15"])
def test_each_python_installs_and_imports_it_in_an_empty_environment(
    wheel: Path, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts/lib"))
    from programs import find_pythons

    base = find_pythons().get(version)
    if base is None:
        pytest.skip(f"Python {version} is not on this machine")

    def call(*command: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ended = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    python = str(tmp_path / "env/bin/python")
    call(base, "-m", "venv", str(tmp_path / "env"))
    call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"server-session @ {wheel.as_uri()}")
    assert call(python, "-I", "-c", IMPORTS).startswith(str(tmp_path))
    call(python, "-m", "pip", "install", "--quiet", f"server-session[redis] @ {wheel.as_uri()}")
    call(python, "-I", "-c", 'from server_session import configure; configure(session_store="redis://127.0.0.1:1/0")')
    call(python, "-m", "pip", "check")
