"""Who has which folder of local stores."""

import subprocess
import sys
from pathlib import Path

import pytest

from rookery.schemas.errors import ConfigurationError
from rookery.streams.kafka.datadir import own_folder

HOLDER = """
import sys
from pathlib import Path
from rookery.streams.kafka.datadir import own_folder
with own_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_two_in_one_folder_have_different_stores_and_find_them_again(tmp_path: Path) -> None:
    base = tmp_path / "app" / "stores"
    with own_folder(base) as first, own_folder(base) as second:
        assert (first, second) == (base, base.with_name("stores-2"))
        assert first.is_dir()
    with own_folder(base) as again:
        assert again == base


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "stores")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == str(tmp_path / "stores")
        with own_folder(tmp_path / "stores") as mine:
            assert mine == tmp_path / "stores-2"
        holder.kill()
        holder.wait(10)
    with own_folder(tmp_path / "stores") as mine:
        assert mine == tmp_path / "stores"


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="ROOKERY_DATA_DIR"), own_folder(tmp_path / "file" / "stores"):
        pass
