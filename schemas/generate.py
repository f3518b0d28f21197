"""Make envelope_pb2.py and .pyi from envelope.proto, or check that they are up to date.

python -m rookery.schemas.generate [--check]
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOM = Path(__file__).resolve().parent
# Generated code loads on a Protobuf runtime that is as new as its compiler and at most one major version ahead. This
# one has protoc 31.1, so that every runtime from 6.33.5 on, 7.x included, can load what it makes.
COMPILER = "1.80.0"
# The name under which the file is registered in a process: a plain "envelope.proto" could clash with an application's.
REGISTERED = "rookery/schemas"
HEAD = "# ruff: noqa\n# mypy: ignore-errors\n"


def generate(folder: Path) -> list[Path]:
    """Write the generated modules into a folder and return their paths; ends the program if the compiler is wrong."""
    try:
        found = version("grpcio-tools")
    except PackageNotFoundError:
        found = "not installed"
    if found != COMPILER:
        sys.exit(f"generated code needs grpcio-tools {COMPILER}, here it is {found}: run `uv sync --group dev`")
    from grpc_tools import protoc

    outputs = [f"--python_out={folder}", f"--pyi_out={folder}"]
    if protoc.main(["protoc", f"-I{REGISTERED}={ROOM}", *outputs, f"{REGISTERED}/envelope.proto"]):
        sys.exit("protoc failed, see above")
    python, stub = folder / REGISTERED / "envelope_pb2.py", folder / REGISTERED / "envelope_pb2.pyi"
    for path in (python, stub):
        path.write_text(HEAD + path.read_text())
    return [python, stub]


def main(arguments: list[str]) -> int:
    """Generate, or with --check compare; returns the exit code, 1 if a file is stale."""
    with tempfile.TemporaryDirectory() as folder:
        made = {ROOM / path.name: path.read_bytes() for path in generate(Path(folder))}
    if "--check" not in arguments:
        for path, content in made.items():
            path.write_bytes(content)
        return 0
    stale = [path.name for path, content in made.items() if not path.exists() or path.read_bytes() != content]
    if stale:
        print(f"{', '.join(stale)} not made from envelope.proto as it is now: run `make proto`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
