"""Remembers which application ids the runs of the main job used, so that a later run can remove their topics."""

import json
import secrets
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from rookery.ops.servers.process import Identity

_REMEMBERED_MAX = 50


class Runs:
    """A folder with one small file per run: its broker, and its process for as long as that lives."""

    def __init__(self, folder: Path) -> None:
        """Use (and make) this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def start(self, broker: str) -> str:
        """Remember a new run of this process, and return its application id."""
        app_id = f"flights-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        owner = Identity.of(psutil.Process().pid)
        (self._folder / f"{app_id}.json").write_text(json.dumps({"broker": broker, "owner": asdict(owner)}))
        # Those of brokers that never come back would pile up.
        for old in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-_REMEMBERED_MAX]:
            old.unlink(missing_ok=True)
        return app_id

    def ended(self, broker: str) -> list[str]:
        """The application ids of runs on this broker whose process is gone."""
        return [path.stem for path in sorted(self._folder.glob("*.json")) if self._is_over(path, broker)]

    def forget(self, app_id: str) -> None:
        """Its topics are gone."""
        (self._folder / f"{app_id}.json").unlink(missing_ok=True)

    def _is_over(self, path: Path, broker: str) -> bool:
        try:
            content = json.loads(path.read_text())
            return bool(content["broker"] == broker and Identity(**content["owner"]).process() is None)
        except (OSError, ValueError, TypeError, KeyError):
            return False  # another run writes or removes it just now
