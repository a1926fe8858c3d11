"""The benchmarks run, so that they cannot rot. What they measure is another matter."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_audit_benchmark_runs_and_prints_a_ratio_for_each_shape() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.audit", "2000", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert len(re.findall(r"\d\.\d\dx", done.stdout)) == 2


def test_the_drain_benchmark_runs_and_prints_a_ratio_for_each_shape() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.drain", "2000", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert len(re.findall(r"\d\.\d\dx", done.stdout)) == 4
    assert re.search(r"^ +1 ", done.stdout, re.MULTILINE)
    assert re.search(r"^ +1,000 ", done.stdout, re.MULTILINE)
