"""Compile the hot path where there is a C compiler; without one the package is complete, pure and slower.

Hatchling runs this for each wheel and each editable install. `python hatch_build.py` compiles into the checkout.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PURE = "ROOKERY_PURE"
"""Set to 1, nothing is compiled here, and what is compiled is not used by a program."""


def sources() -> list[Path]:
    """What is to be compiled, below `src`."""
    rooms = [ROOT / "src/rookery" / room for room in ("schemas", "agents", "ops", "streams")]
    return sorted(path for room in rooms for path in room.rglob("_*.pyx"))


def build(target: Path) -> list[Path]:
    """Compile all sources, into the tree of packages below `target`; raises whatever compilers raise."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    os.chdir(ROOT)
    extensions = [
        Extension(".".join(path.relative_to(ROOT / "src").with_suffix("").parts), [str(path)]) for path in sources()
    ]
    with tempfile.TemporaryDirectory() as work:
        modules = cythonize(extensions, build_dir=work, include_path=["src"], language_level=3, quiet=True)
        command = build_ext(Distribution({"ext_modules": modules}))
        command.build_lib, command.build_temp, command.parallel = f"{work}/lib", work, os.cpu_count()
        command.ensure_finalized()
        command.run()
        made = []
        for output in map(Path, command.get_outputs()):
            module = target / output.relative_to(command.build_lib)
            module.parent.mkdir(parents=True, exist_ok=True)
            # Put there in one step: a module that is overwritten under a running process would end it.
            aside = shutil.copy(output, module.with_suffix(".new"))
            Path(aside).replace(module)
            made.append(module)
        return made


class CompiledHotPath(BuildHookInterface):  # type: ignore[type-arg]
    """See the head of this module."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled modules to a wheel, or put them beside their sources for an editable install."""
        if self.target_name != "wheel" or os.environ.get(PURE) == "1":
            return
        self._work = tempfile.TemporaryDirectory()
        target = ROOT / "src" if version == "editable" else Path(self._work.name)
        try:
            outputs = build(target)
        except (Exception, SystemExit) as error:
            self.app.display_warning(f"rookery: nothing was compiled, it will be slower: {error}")
            return
        if version != "editable":
            build_data["force_include"] |= {str(path): str(path.relative_to(target)) for path in outputs}
            build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is made."""
        if hasattr(self, "_work"):
            self._work.cleanup()


if __name__ == "__main__":
    sys.stdout.write("\n".join(str(path) for path in build(ROOT / "src")) + "\n")
