"""Secrets that are given as files, as container platforms hand them out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

BYTES_MAX: Final = 65_536


def read(names: Iterable[str], prefix: str, overrides: dict[str, Any], variables: dict[str, str]) -> list[str]:
    """Put the secrets that are given as files into `overrides`, their sources into `variables`; says what is wrong."""
    problems = []
    for name in names:
        keyword, variable = f"{name}_file", f"{prefix}{name.upper()}_FILE"
        as_keyword = name in overrides and name not in variables
        if path := overrides.pop(keyword, None):
            source, twice = keyword, as_keyword
        elif as_keyword:
            continue
        else:
            path, source, twice = os.environ.get(variable), variable, bool(os.environ.get(prefix + name.upper()))
        if path and twice:
            problems.append(f"{name}: is set, and {source} is, too; unset one of them")
        if not path or twice:
            continue
        try:
            with Path(path).open(encoding="utf-8") as file:
                overrides[name] = file.read(BYTES_MAX).rstrip("\r\n")
            variables[name] = source
        except (OSError, ValueError) as error:
            problems.append(f"{name} ({source}): the file can't be read: {getattr(error, 'strerror', 'it is no text')}")
    return problems
