"""What we publish: sdist, then the wheel from it, installed beside a package that owns the name ``agents``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("schemas", "agents", "ops", "streams")
IMPORT_ROOMS = """
import importlib, pkgutil, sys
import rookery
names = [module.name for module in pkgutil.walk_packages(rookery.__path__, "rookery.")]
for room in ("schemas", "agents", "ops", "streams"):
    assert f"rookery.{room}" in names, (room, names)
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(rookery.__file__)
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout's import path and return its output; its errors are shown."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environ |= environment
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def uv() -> str:
    """The uv of this machine, else the one that ``make setup`` fetched."""
    for candidate in (shutil.which("uv"), str(ROOT / ".rookery/uv/bin/uv")):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate
    pytest.fail("uv is missing: run `make setup`")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of the checkout, and a wheel made from nothing but that sdist."""
    folder = tmp_path_factory.mktemp("built")
    run(uv(), "build", "--sdist", "--out-dir", folder, ROOT, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    run(uv(), "build", "--wheel", "--out-dir", folder, sdist, cwd=folder, CFLAGS="-O0")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def new_environment(folder: Path) -> Path:
    run(uv(), "venv", "--python", sys.executable, folder / "env", cwd=folder)
    return folder / "env/bin/python"


def sources(room: str) -> set[str]:
    return {
        f"rookery/{path.relative_to(ROOT)}"
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_file_of_every_room_and_no_other_name(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[1]).namelist())
    for room in ROOMS:
        assert sources(room) <= names
    assert "rookery/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rookery"}


def test_the_sdist_holds_what_a_wheel_needs_and_no_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "src/rookery/__init__.py"} <= names
    assert not {name for name in names if name.startswith(("tests/", ".venv", ".rookery"))}


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_wheel_is_compiled(built: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(built[1]).namelist()
    twins = {path.stem for room in ROOMS for path in (ROOT / room).rglob("_*.pyx")}
    assert "_wire" in twins
    assert {Path(name).name.partition(".")[0] for name in names if name.endswith(".so")} == twins


@pytest.mark.long
def test_the_wheel_imports_beside_the_package_that_owns_agents(built: tuple[Path, Path], tmp_path: Path) -> None:
    python = new_environment(tmp_path)
    run(uv(), "pip", "install", "--python", python, built[1], "openai-agents", cwd=tmp_path)
    where = run(python, "-c", IMPORT_ROOMS, cwd=tmp_path)
    assert Path(where).is_relative_to(tmp_path)
    run(python, "-c", "import agents; assert agents.Runner", cwd=tmp_path)
    run(python, "-c", "import importlib.util as u; assert u.find_spec('streams') is None", cwd=tmp_path)


def test_an_editable_install_imports_every_room_from_the_checkout(tmp_path: Path) -> None:
    python = new_environment(tmp_path)
    # It would compile into the checkout, where it is compiled.
    run(uv(), "pip", "install", "--python", python, "-e", ROOT, cwd=tmp_path, ROOKERY_PURE="1")
    assert run(python, "-c", IMPORT_ROOMS, cwd=tmp_path) == str(ROOT / "src/rookery/__init__.py")


def test_the_version_has_one_source(built: tuple[Path, Path]) -> None:
    from rookery._version import __version__

    assert built[1].name.startswith(f"rookery-{__version__}-")
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
