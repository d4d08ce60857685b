"""What a benchmark leaves behind: one set of figures as JSON, as a picture and as a page."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import report
from bench.plot import LIMIT, OURS, THEIRS, Group, bars
from bench.report import Row, Table, finish, publish

SVG = "{http://www.w3.org/2000/svg}"
BENCH = Path(report.__file__).parent
ROWS = [
    Row("<a> & file", "rsync", "MB/s", 900.0, 300.0, 2.0),
    Row("<a> & file", "iperf3", "MB/s", 900.0, 1000.0),
    Row("memory", "goal", "MiB", 90.0, 80.0, 1.0, smaller_is_better=True),
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def words(svg: str) -> list[str]:
    return [str(element.text) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_picture_and_the_page_say_what_the_json_says(results: Path) -> None:
    assert finish("some", ROWS, ["medians of <3>"]) == 1
    document = json.loads((results / "some.json").read_text())
    assert [group["figures"] for group in document["groups"]] == [
        {"dwcp": 900, "rsync": 300, "iperf3": 1000},
        {"dwcp": 90, "goal": 80},
    ]
    assert [row["met"] for row in document["rows"]] == [True, None, False]
    picture, page = (results / "some.svg").read_text(), (results / "some.html").read_text()
    told = ["<a> & file", "dwcp", "900 MB/s", "rsync", "300 MB/s", "iperf3", "1,000 MB/s"]
    assert words(picture) == [*told, "memory", "dwcp", "90.0 MiB", "goal", "80.0 MiB"]
    assert picture in page
    assert "1 of 2 goals are met." in page
    assert "<td>&lt;a&gt; &amp; file</td><td>900.00</td><td>MB/s</td><td>rsync</td><td>300.00</td><td>3.00</td>" in page
    assert "medians of &lt;3&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_bars_are_as_long_as_their_figures_are_large() -> None:
    svg = bars([Group("rate", "Mbit/s", 1000.0, {"dwcp": 900.0, "rsync": 450.0, "iperf3": 2000.0}, shares=True)])
    _, *drawn = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    ours, theirs, limit = [float(rect.attrib["width"]) for rect in drawn]
    assert ours == pytest.approx(2 * theirs, abs=1)
    assert limit == pytest.approx(ours / 0.9, abs=1)
    assert [rect.attrib["fill"] for rect in drawn] == [OURS, THEIRS, LIMIT]
    assert words(svg)[2] == "900 Mbit/s (90%)"
    # nothing to compare with, and nothing at all
    assert words(bars([Group("nothing", "s", 0.0, {"dwcp": 0.0})])) == ["nothing", "dwcp", "0.00 s"]
    assert words(bars([])) == []


def test_a_benchmark_with_tables_of_its_own(results: Path) -> None:
    publish("own", "Fine.", {"cases": [1]}, [], [Table("T & t", ("a<", "b"), [("x", "1")])])
    assert json.loads((results / "own.json").read_text())["cases"] == [1]
    page = (results / "own.html").read_text()
    assert '<h2>T &amp; t</h2><table class=""><thead><tr><th scope="col">a&lt;</th>' in page


def test_there_is_one_place_that_writes_results() -> None:
    writers = [path.name for path in BENCH.glob("*.py") if "RESULTS" in path.read_text() or ".svg" in path.read_text()]
    assert writers == ["report.py"]
