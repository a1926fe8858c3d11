"""The benchmarks run, so that they cannot rot. What they measure is another matter."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from benchmarks import latency, show
from benchmarks.case import Case, Contender, Point, Sample, Scale
from benchmarks.cases import CASES
from benchmarks.compare import peer
from benchmarks.compare.case import Peers
from benchmarks.compare.peer import NoInterpreter, Peer
from benchmarks.measuring import measure
from benchmarks.place import opened
from benchmarks.results import Measured, Report, Standing
from benchmarks.task import MARK, Sighting

# What they measure on is the newest version.
pytestmark = pytest.mark.any_version

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    """Run one of the programs; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a quick run of every case left, as JSON with a page and plots beside it."""
    file = tmp_path_factory.mktemp("benchmarks") / "quick.json"
    run("benchmarks", "all", "--quick", "--json", str(file))
    return file


def test_every_case_gives_figures_for_every_contender(kept: Path) -> None:
    report = Report.load(kept)
    assert [result.case for result in report.results] == list(CASES)
    for result in report.results:
        assert result.points, result.case
        for point in result.points:
            assert all(len(standing.samples) == 1 for standing in point.standings)
            assert point.yardstick in ("", *(standing.name for standing in point.standings))
        if not result.unit.startswith("ms"):
            assert all(s.values.least > 0 for p in result.points for s in p.standings), result.case


def test_the_page_says_of_every_case_what_is_counted_and_what_is_durable(kept: Path) -> None:
    page = kept.with_suffix(".md").read_text()
    assert page.count("\nCounted: ") == page.count("\nDurable when it is counted: ") == len(CASES)
    for result in Report.load(kept).results:
        assert f"(`{result.case}`)" in page
        assert result.durable in page


def test_every_plot_is_an_image(kept: Path) -> None:
    for name in CASES:
        root = ElementTree.parse(kept.with_name(f"{kept.stem}.{name}.svg")).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = "".join(root.itertext())
        assert CASES[name].unit in texts
        assert "nan" not in texts


@pytest.mark.slow
def test_draining_has_a_command_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "drain.json"
    printed = run("benchmarks.drain", "1000", "1", "--quick", f"--json={file}")
    assert "1 job in a transaction" in printed
    assert "1,000 jobs in a transaction" in printed
    (result,) = Report.load(file).results
    assert [len(point.standings[0].samples) for point in result.points] == [1, 1]
    ratios = [s for point in result.points for s in point.standings if point.ratio(s)]
    assert len(re.findall(r"\*\*\d+\.\d\d\*\*", printed)) == len(ratios) == 14


@pytest.mark.slow
def test_ours_and_the_replication_cursor_are_beside_the_peers() -> None:
    """What the peers themselves do needs a package index, and is not tried here."""

    class NoPeers(Peers):
        chosen = ()

    with opened(durable=False) as place:
        result = measure(NoPeers(), place, Scale(quick=True), repetitions=1, tell=lambda line: None)

    (point,) = result.points
    cursor, *ours = point.standings
    assert cursor.name == point.yardstick
    assert [point.ratio(standing) is not None for standing in ours] == [True, True]


class TestPeers:
    """With which Python the environment of another library is made."""

    @pytest.fixture
    def needs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Write the requirements of a library that needs this Python, with nothing on the path."""
        monkeypatch.setattr(peer, "_PEERS", tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path))

        def write(version: str) -> None:
            (tmp_path / "library.txt").write_text(f"# needs Python {version}\nlibrary==1.0\n")

        return write

    def interpreter(self, folder: Path, name: str, body: str) -> Path:
        file = folder / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
        return file

    def test_ours_is_taken_where_it_will_do(self, needs, tmp_path: Path) -> None:
        needs("3.11")
        self.interpreter(tmp_path, "python3.11", "exit 0")
        assert Peer("library").version == "library==1.0"

    def test_a_newer_one_is_looked_for_on_the_path_and_named(self, needs, tmp_path: Path) -> None:
        needs("3.98")
        self.interpreter(tmp_path, "python3.98", "exit 127")
        self.interpreter(tmp_path, "python3.99", "exit 0")
        assert Peer("library").version == "library==1.0, python3.99"

    def test_without_one_it_cannot_run(self, needs, tmp_path: Path) -> None:
        needs("3.98")
        self.interpreter(tmp_path, "python3.98", "exit 127")
        with pytest.raises(NoInterpreter, match=r"library needs Python 3\.98 or newer"):
            Peer("library")


class TestMeasuring:
    """How figures are made of runs."""

    def test_contenders_take_turns_and_the_order_changes(self) -> None:
        told: list[str] = []

        def contender(name: str) -> Contender:
            def go() -> Sample:
                told.append(name)
                return Sample(value=float(len(told)))

            return Contender(name=name, run=go)

        class Two(Case):
            name = title = unit = counted = durable = "two"

            def points(self, place, scale):
                yield Point(name="p", contenders=[contender("a"), contender("b")], yardstick="a")
                told.append("cleaned up")

        result = measure(Two(), None, Scale(), repetitions=3, tell=lambda line: None)
        assert told == ["a", "b", "b", "a", "a", "b", "cleaned up"]
        (point,) = result.points
        assert [each.value for each in point.standings[0].samples] == [1, 4, 5]

    def test_a_ratio_is_that_of_the_pairs_of_a_turn(self) -> None:
        # Twice as fast each time, on a machine that gets slower and slower.
        theirs, ours = (
            Standing(name=name, settings="", samples=[Sample(value=value) for value in values])
            for name, values in (("theirs", (100, 10, 1)), ("ours", (200, 20, 2)))
        )
        point = Measured(name="p", yardstick="theirs", x=None, standings=[theirs, ours])
        ratio = point.ratio(ours)
        assert ratio is not None
        assert (ratio.least, ratio.median, ratio.most) == (2, 2, 2)
        assert point.ratio(theirs) is None

    def test_percentiles_are_values_that_were_measured(self) -> None:
        values = [float(number) for number in range(1, 101)]
        assert latency.percentile(values, 50) == 50
        assert latency.percentile(values, 99) == 99
        assert latency.percentile([7.0], 99) == 7
        assert latency.percentile([1.0, 2.0], 50) == 1

    def test_latency_joins_a_commit_with_the_first_arrival_of_its_job(self) -> None:
        sightings = [
            Sighting(clock=0, monotonic=5_000_000, marks=[MARK.pack(1, 1), MARK.pack(2, 1)]),
            Sighting(clock=0, monotonic=9_000_000, marks=[MARK.pack(1, 1)]),
        ]
        came = latency.arrivals(sightings, shared=True)
        sample = latency.sample({(1, 1): 2_000_000, (2, 1): 4_000_000}, came)
        assert (sample.value, sample.also["longest ms"]) == (1.0, 3.0)
        with pytest.raises(RuntimeError, match="1 of 1 jobs did not come"):
            latency.sample({(3, 1): 0}, came)

    def test_figures_keep_the_digits_that_count(self) -> None:
        assert [show.figure(value) for value in (123456.7, 0.01234, 5.0, 99.96)] == [
            "123,457",
            "0.0123",
            "5",
            "100",
        ]
