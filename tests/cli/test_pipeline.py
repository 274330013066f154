"""What a pipeline's file may say, and what of it is done again: no stage is really done here."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from stpipe.cli.main import run
from stpipe.cli.pipeline import commands, keys
from stpipe.cli.pipeline.commands import Stage, plan_stages
from stpipe.cli.pipeline.files import STAGES, read_pipeline, shipped_pipelines
from stpipe.cli.pipeline.keys import DECIDED, command_of, keys_of
from stpipe.errors import RunError

PLAIN = """\
about: a pipeline
ingest:
  src: IN
  same-day: mean
gaps:
  by: month
fill:
  method: linear
  tune:
mosaic:
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a pipeline and an input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN").mkdir()
    (tmp_path / "IN" / "a.tif").write_text("a")
    (tmp_path / "p.yaml").write_text(PLAIN)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run a command line; return what it printed, or its error."""
    assert run(["run", *words]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


# --- what may be said --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_pipelines())
def test_a_shipped_page_is_right_to_its_last_comment(name: str, tmp_path: Path) -> None:
    path = shipped_pipelines()[name]
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) < 60
    assert max(map(len, lines)) <= 120
    # Keys that are commented out are right too, once they are taken in.
    taken_in = re.sub(r"^  # ([a-z-]+:)", r"  \1", text, flags=re.MULTILINE)
    assert taken_in != text
    for number, content in enumerate((text, taken_in)):
        own = tmp_path / f"{name}{number}.yaml"
        own.write_text(content)
        pipeline = read_pipeline(own)
        assert pipeline.about
        words = ["ingest.src=x"] if "ingest" in pipeline.stages else ["gaps.cube=x"]
        stages = plan_stages(pipeline.with_words([*words, "ingest.same-day="] if number else words), tmp_path)
        assert [stage.name for stage in stages] == [stage for stage in STAGES if stage in pipeline.stages]


def test_every_option_of_a_verb_is_a_key_and_a_new_one_at_once(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    for stage in STAGES:
        names = {opt for parameter in command_of(stage).params for opt in parameter.opts if opt.startswith("--")}
        assert {f"--{key}" for key in keys_of(stage)} >= names
    command = command_of("gaps")
    monkeypatch.setattr(command, "params", [*command.params, click.Option(["--brand-new"], type=click.IntRange(1, 3))])
    monkeypatch.setattr(keys, "keys_of", keys_of.__wrapped__)
    pipeline = read_pipeline(place / "p.yaml")
    (_, gaps, *_) = plan_stages(pipeline.with_words(["gaps.brand-new=2"]), place)
    assert gaps.options[-2:] == ("--brand-new", "2")
    with pytest.raises(ValueError, match=r"--set gaps.brand-new=4: gaps.brand-new: 4 is not in the range 1<=x<=3"):
        plan_stages(pipeline.with_words(["gaps.brand-new=4"]), place)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "same-day: mean",
            "same_day: mean",
            "line 4: ingest has no key 'same_day'; did you mean 'same-day'?",
            id="key-of-another-spelling",
        ),
        pytest.param(
            "  by: month",
            "  method: linear",
            "line 6: gaps has no key 'method'; fill has it",
            id="key-of-another-stage",
        ),
        pytest.param("gaps:", "gap:", "line 5: a pipeline has no key 'gap'; did you mean 'gaps'?", id="stage"),
        pytest.param(
            "mean",
            "meen",
            "line 4: ingest.same-day: 'meen' is not one of 'refuse', 'first', 'last', 'mean', 'median', 'least-cloud'",
            id="choice",
        ),
        pytest.param(
            "linear", "liner", "line 8: fill.method: there is no 'liner'; did you mean 'linear'?", id="method"
        ),
        pytest.param("tune:", "tune: perhaps", "line 9: fill.tune is on or off, got 'perhaps'", id="flag"),
        pytest.param(
            "tune:",
            "block: [16, 64]",
            "line 9: fill.block: --block needs three whole numbers T,Y,X such as 16,128,128, got '16,64'",
            id="list-that-is-too-short",
        ),
        pytest.param("tune:", "workers: two", "line 9: fill.workers: 'two' is not a valid integer", id="number"),
        pytest.param(
            "tune:",
            "qa: s2-sc",
            "line 9: fill.qa: --qa 's2-sc' is NAME, NAME=VAR or NAME:+PART,-PART of a product; did you mean s2-scl?",
            id="product",
        ),
        pytest.param("tune:", "interval: 2", "line 9: fill: --interval is a share between 0 and 1, got 2", id="share"),
        pytest.param(
            "tune:", "tune: on", "line 9: fill: --tune goes with --method pconv", id="option-of-another-method"
        ),
        pytest.param(
            "tune:",
            "layout: stack",
            "line 9: fill: --layout stack shapes the GeoTIFFs that --no-geotiff leaves out",
            id="layout-twice",
        ),
        pytest.param("linear", "guided", "method guided leans on guides alone; give one with --guide", id="no-guide"),
        pytest.param("linear", "sar", "method sar leans on radar; name its cube with --guide", id="no-radar"),
        pytest.param("tune:", "sar-window: 9", "line 9: fill: --sar-window goes with --method sar", id="sar-option"),
        pytest.param("tune:", "guide: s1.zarr", "method linear takes no --guide; guided, pconv", id="guide"),
        pytest.param("tune:", "output: x", "line 9: fill.output is for stpipe run to say", id="output"),
        pytest.param("tune:", "method: idw", "line 9: 'method' stands in line 8 already", id="key-twice"),
        pytest.param("tune:", "tune: {a: b}", "line 9: tune takes a value, or a list of values", id="mapping"),
        pytest.param(
            "  src: IN\n", "", "line 2: ingest has nothing to read; name it with --set ingest.src=FOLDER", id="no-input"
        ),
        pytest.param(
            "mosaic:",
            "mosaic: perhaps",
            "line 10: mosaic holds keys and values, or is on or off, got 'perhaps'",
            id="stage-with-a-word",
        ),
        pytest.param("  by: month", "  by: [month", "line 7: this is not YAML", id="broken"),
        pytest.param("  by: month", "\tby: month", "any token; indent with spaces, not with tabs", id="tab"),
        pytest.param(PLAIN, "about: x", "holds no stage; there are ingest, gaps, fill, mosaic", id="no-stage"),
        pytest.param(PLAIN, "- a", "line 1: a pipeline holds about and stages, as KEY: VALUE", id="list"),
        pytest.param(PLAIN, "", "holds no stage", id="empty"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_with_its_place(
    old: str, new: str, expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in PLAIN
    (place / "p.yaml").write_text(PLAIN.replace(old, new, 1))
    before = sorted(place.rglob("*"))
    error = said(capsys, "p.yaml", code=2)
    assert error.startswith("stpipe: error: p.yaml")
    assert expected in error
    assert error.count("\n") == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(
            ["p.yaml", "--set", "fill.metod=idw"],
            "--set fill.metod=idw: fill has no key 'metod'; did you mean 'method'?",
            id="key",
        ),
        pytest.param(
            ["p.yaml", "--set", "method=idw"], "a key stands behind its stage, such as ingest.method=idw", id="no-stage"
        ),
        pytest.param(
            ["p.yaml", "--set", "fil.method=idw"], "there is no stage 'fil'; did you mean 'fill'?", id="stage"
        ),
        pytest.param(["p.yaml", "--set", "fill"], "--set needs STAGE.KEY=VALUE", id="no-value"),
        pytest.param(["p.yaml", "--set", "fill=idw"], "a stage is on or off", id="stage-with-a-value"),
        pytest.param(["s2-ndwi"], "no pipeline 's2-ndwi'; did you mean 's2-ndvi'?", id="name"),
        pytest.param(
            ["quux"], "no pipeline 'quux'; there are hls-ndvi, landsat-reflectance, s2-ndvi, s5p-co, sst", id="no-name"
        ),
        pytest.param(
            ["gone.yaml"],
            "there is no file gone.yaml; beside it: p.yaml; pipelines that come with stpipe are hls-ndvi",
            id="file",
        ),
        pytest.param(["demo"], "no pipeline 'demo'", id="what-is-the-demos"),
        pytest.param(["p.yml"], "there is no file p.yml; beside it: p.yaml; pipelines that come", id="other-ending"),
        pytest.param(
            ["IN"], "IN is no pipeline; to read it: stpipe run NAME --set ingest.src=IN, where NAME", id="a-folder"
        ),
        pytest.param(["./IN"], "./IN is no pipeline; to read it: stpipe run NAME --set ingest.src=./IN", id="its-path"),
        pytest.param(
            ["p.yaml", "IN"], "'IN' is one word more; what it is to read is said with --set ingest.src=IN", id="source"
        ),
        pytest.param(
            ["p.yaml", *(word for stage in STAGES for word in ("--set", f"{stage}=off"))],
            "p.yaml: every stage is off; take one in with --set STAGE=on",
            id="nothing-to-do",
        ),
        pytest.param(["p.yaml", "-o", "p.yaml"], "the output p.yaml is a file", id="output-is-a-file"),
        pytest.param([], "run needs the NAME of a pipeline", id="nothing"),
        pytest.param(["s2-ndvi"], "s2-ndvi.yaml, line 13: ingest has nothing to read", id="shipped-without-input"),
        pytest.param(
            ["sst", "--set", "ingest=off"],
            "gaps has nothing to read; name it with --set gaps.cube=CUBE",
            id="shipped-without-cube",
        ),
    ],
)
def test_wrong_words_are_refused(
    words: list[str], expected: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    error = said(capsys, *words, code=2)
    assert expected in error
    assert error.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def test_command_lines_are_what_one_would_type(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "ingest.src=a b", "--set", "ingest.src=c", "--set", "gaps=off", "--set", "fill.valid-range=-1,1"]
    words += [
        "--set",
        "fill.tune=off",
        "--set",
        "fill.method=pconv",
        "--set",
        "mosaic.var=v",
        "--set",
        "ingest.same-day=",
    ]
    for name in ("a b", "c"):
        (place / name).mkdir()
    assert said(capsys, "p.yaml", "--dry-run", "-o", "out", *words).splitlines() == [
        "# ingest: to do",
        "stpipe ingest 'a b' c -o out/cube.zarr",
        "# fill: to do",
        "stpipe fill-scene out/cube.zarr -o out/filled --valid-range=-1,1 --no-tune --method pconv --no-geotiff",
        "# mosaic: to do",
        "stpipe mosaic out/filled -o out/geotiff --var v",
    ]
    rows = json.loads(said(capsys, "p.yaml", "--dry-run", "--json"))
    assert [row["stage"] for row in rows] == list(STAGES)
    assert rows[1]["command"] == shlex.split("stpipe gaps p.run/cube.zarr -o p.run/gaps --by month")
    assert {path.name for path in place.iterdir()} == {"IN", "a b", "c", "p.yaml"}


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ingest.src=INN", "--set ingest.src=INN: ingest: there is no file or folder INN; beside it: IN"),
        ("ingest.src=IN/*.jp2", "there is no file or folder IN/*.jp2; beside it: a.tif"),
        ("fill.guide=radar.zarr", "fill: --guide: there is no file or folder radar.zarr"),
        ("fill.coefficients=c.zarr", "fill: --coefficients: there is no file or folder c.zarr"),
        ("gaps.aoi=IN/field.geojson", "gaps: --aoi: there is no file or folder IN/field.geojson"),
    ],
)
def test_what_is_not_there_is_said_before_the_first_stage(
    place: Path, capsys: pytest.CaptureFixture[str], word: str, message: str, dry: bool
) -> None:
    more = ["--set", "fill.method=guided"] if "guide" in word else []
    more += ["--set", "fill.method=sar", "--set", "fill.guide=IN/a.tif"] if "coefficients" in word else []
    error = said(capsys, "p.yaml", "--set", word, *more, *["--dry-run"] * dry, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in place.iterdir()} == {"IN", "p.yaml"}


def test_without_a_mosaic_the_fill_makes_geotiffs_and_without_ingest_cubes_are_handed_on(place: Path) -> None:
    pipeline = read_pipeline(place / "p.yaml").with_words(["ingest=off", "gaps.cube=c.zarr", "mosaic=off"])
    gaps, fill = plan_stages(pipeline, place)
    assert (gaps.source, fill.source) == (("c.zarr",), ("c.zarr",))
    assert "--no-geotiff" not in fill.options
    (mosaic,) = plan_stages(pipeline.with_words(["gaps=off", "fill=off", "mosaic=on", "mosaic.cube=d.zarr"]), place)
    assert mosaic.source == ("d.zarr",)


def test_the_shipped_ones_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "--list").splitlines()
    assert [line.split()[0] for line in lines] == ["hls-ndvi", "landsat-reflectance", "s2-ndvi", "s5p-co", "sst"]
    rows = json.loads(said(capsys, "--list", "--json"))
    about = "Sea surface temperature, land left alone"
    assert rows[4] == {"name": "sst", "about": about, "stages": ["ingest", "gaps", "fill", "mosaic"]}
    assert said(capsys, "sst", "--show") == shipped_pipelines()["sst"].read_text()


# --- what is done again ------------------------------------------------------------------------------------------


class FakeVerbs:
    """Stages that leave a file or two, and remember that they were done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.number = 0
        self.fail: str | None = None

    def __call__(self, stage: Stage, *, overwrite: bool, as_json: bool) -> dict[str, Any] | None:
        self.done.append(f"{stage.name}{'!' if overwrite else ''}")
        if stage.name == self.fail:
            raise RunError("the disk is full")
        self.number += 1
        stage.output.mkdir(parents=True, exist_ok=True)
        (stage.output / ("zarr.json" if stage.name == "ingest" else "product")).write_text("x" * self.number)
        return {"number": self.number} if as_json else None


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> FakeVerbs:
    fake = FakeVerbs()
    monkeypatch.setattr(commands, "do_stage", fake)
    monkeypatch.setattr("stpipe.cli.run._unheeded", lambda *_: iter(()))
    monkeypatch.setattr("stpipe.cli.run._goes_on", lambda _: True)
    return fake


def touch(path: str) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        (place / path).write_text("other text")

    return change


def remove(path: str) -> Callable[[Path], None]:
    return lambda place: (place / path).unlink()


@pytest.mark.parametrize(
    ("words", "change", "again"),
    [
        pytest.param([], None, "", id="nothing-changed"),
        pytest.param(["fill.workers=1", "gaps.memory-limit=4GiB"], None, "", id="how-the-work-is-done"),
        pytest.param(["fill.log=run.log"], touch("run.log"), "", id="a-log-that-grew"),
        pytest.param(["ingest.same-day=first"], None, "ingest! gaps! fill! mosaic!", id="first-stage"),
        pytest.param(["gaps.by=year"], None, "gaps!", id="gaps-which-nothing-builds-on"),
        pytest.param(["fill.method=idw"], None, "fill! mosaic!", id="fill"),
        pytest.param(["mosaic.layout=stack"], None, "mosaic!", id="last-stage"),
        pytest.param([], touch("IN/b.tif"), "ingest! gaps! fill! mosaic!", id="another-file"),
        pytest.param([], touch("IN/a.tif"), "ingest! gaps! fill! mosaic!", id="another-content"),
        pytest.param([], remove("p.run/gaps/product"), "gaps!", id="product-gone"),
        pytest.param([], remove("p.run/stages.json"), "ingest gaps fill mosaic", id="no-record-and-nothing-replaced"),
        pytest.param(["ingest.src=./IN"], None, "", id="the-same-input-in-other-words"),
    ],
)
def test_what_is_done_is_not_done_again(
    words: list[str], change: Callable[[Path], None] | None, again: str, place: Path, verbs: FakeVerbs,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(["run", "p.yaml"]) == 0
    assert verbs.done == ["ingest", "gaps", "fill", "mosaic"]
    verbs.done.clear()
    if change is not None:
        change(place)
    options = [word for text in words for word in ("--set", text)]
    capsys.readouterr()
    foretold = json.loads(said(capsys, "p.yaml", *options, "--dry-run", "--json"))
    assert verbs.done == []
    report = json.loads(said(capsys, "p.yaml", *options, "--json"))
    assert verbs.done == again.split()
    assert [row["command"] for row in foretold] == [row["command"] for row in report["stages"]]
    assert [row["stage"] for row in report["stages"] if not row["already"]] == [s.rstrip("!") for s in again.split()]
    verbs.done.clear()
    assert run(["run", "p.yaml", *options]) == 0
    assert verbs.done == []


def test_what_failed_is_gone_on_with_and_says_where(
    place: Path, verbs: FakeVerbs, capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.fail = "fill"
    error = said(capsys, "p.yaml", code=1)
    assert error.splitlines()[-1] == "stpipe: error: p.yaml, line 7: fill: the disk is full"
    assert json.loads((place / "p.run" / "stages.json").read_text())["stages"]["fill"]["state"] == "begun"
    verbs.fail = None
    verbs.done.clear()
    (place / "p.run" / "filled").mkdir()
    assert run(["run", "p.yaml"]) == 0
    assert verbs.done == ["fill", "mosaic"]


def test_an_input_around_the_output_does_not_count_it(place: Path, verbs: FakeVerbs) -> None:
    words = ["run", "p.yaml", "--set", "ingest.src=.", "-o", "IN/out"]
    assert run(words) == 0
    verbs.done.clear()
    assert run(words) == 0
    assert verbs.done == []


def test_a_refusal_is_none_of_the_whole_once_something_was_done(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeVerbs()
    real = commands.do_stage
    monkeypatch.setattr("stpipe.cli.run._unheeded", lambda *_: iter(()))
    monkeypatch.setattr(
        commands, "do_stage", lambda stage, **how: (fake if stage.name == "ingest" else real)(stage, **how)
    )
    error = said(capsys, "p.yaml", code=1)
    assert "p.yaml, line 5: gaps: " in error
    assert "what the stages before made is kept" in error
    assert sorted(json.loads((place / "p.run" / "stages.json").read_text())["stages"]) == ["ingest"]
    # Refused at the first stage, it leaves nothing.
    assert run(["run", "p.yaml", "-o", "new", "--set", "ingest=off", "--set", "gaps.cube=gone.zarr"]) == 2
    assert not (place / "new").exists()


def test_decided_options_are_those_of_the_verbs() -> None:
    for stage in STAGES:
        assert {"output", "overwrite", "json"} <= keys_of(stage).keys() & DECIDED
