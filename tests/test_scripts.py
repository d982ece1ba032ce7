"""The checks themselves, on a machine that they do not know, or that is busy."""

import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

LIB = Path(__file__).parents[1] / "scripts/lib"

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def imported_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LIB))


def test_each_python_that_is_supported_is_found_by_its_own_name(tmp_path: Path) -> None:
    from programs import PYTHONS

    for version in PYTHONS:
        python = tmp_path / f"python{version}"
        python.symlink_to(sys.executable)
        command = ["/bin/sh", LIB / "find-python"]
        found = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, check=False)
        assert (found.returncode, found.stderr) == (0, b""), version
        python.unlink()


def test_a_set_up_that_is_interrupted_says_so_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import environments

    def prepare(*_: str, **__: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(environments, "prepare", prepare)
    with pytest.raises(SystemExit, match="interrupted"):
        environments.main("demo")


def test_npm_has_a_place_for_its_cache_where_no_home_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import environments

    called: list[str] = []
    monkeypatch.setattr(environments, "_run", lambda _, *command, **__: called.extend(command))
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    environments._install_packages(".venv", tmp_path / "js", tmp_path / "stamp", "wanted")
    assert called[called.index("--cache") + 1].startswith(str(tmp_path / "js"))


def test_the_lowest_versions_are_those_that_the_library_and_its_extras_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import environments

    (tmp_path / "pyproject.toml").write_text("""
[project]
name = "shop"
dependencies = ["first>=1"]
[project.optional-dependencies]
one = ["shop[other]", "second[more]>=2.0.43"]
other = ["third>=3.1"]
none = []
""")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    assert environments.lowest_versions() == ["first==1", "second==2.0.43", "third==3.1"]


def test_no_drawn_case_fails_because_it_took_long() -> None:
    assert hypothesis.settings.default.deadline is None
