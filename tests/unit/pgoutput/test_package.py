"""The package as a whole: it stands alone, and its README tells the truth."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pgcdc_outbox.pgoutput as package

FOLDER = Path(package.__file__).parent


def example() -> str:
    found = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), re.S)
    assert found
    return found[1]


def test_the_example_runs(capsys):
    exec(compile(example(), "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        (
            'START_REPLICATION SLOT "my_slot" LOGICAL 0/0'
            " (proto_version '1', publication_names '\"my_pub\"', binary 'true')"
        ),
        "insert into 16384 (b'\\x00\\x01', None)",
        "acknowledge 0/94 in 34 bytes",
    ]


def test_it_can_be_lifted_out(tmp_path: Path):
    """Copied elsewhere under another name, with nothing installed, it still works."""
    shutil.copytree(FOLDER, tmp_path / "lifted", ignore=shutil.ignore_patterns("__pycache__"))
    script = example().replace("pgcdc_outbox.pgoutput", "lifted")
    script += "\nimport sys; assert not {'psycopg', 'msgspec', 'pgcdc_outbox'} & set(sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = ['.']\n{script}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "acknowledge 0/94" in done.stdout


def test_all_that_is_public_is_listed():
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
