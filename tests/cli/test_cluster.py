"""`--cluster` and `stpipe cluster` as a user types them, on this machine and with a stand-in for Slurm's commands."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from distributed import Client

from stpipe.cli import cluster as verb
from stpipe.cli.cluster_files import FILE, packaged_clusters, read_cluster_file
from stpipe.cli.main import run
from stpipe.core.scene import SceneSpec, make_scene
from stpipe.errors import RunError
from stpipe.execution.clusters.plan import JOB_SYSTEMS, ClusterPlan
from stpipe.io.scene import write_scene
from stpipe.resources import shelf

JOBS = """jobqueue:
  slurm: {cores: 1, memory: 1GiB, walltime: '00:10:00'}
distributed:
  adaptive: {minimum: 0, maximum: 2, interval: 1s}
  deploy: {lost-worker-timeout: 1s}
"""


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cubes")
    spec = SceneSpec(frames=6, height=64, width=64, swath_frames=1, striped_frames=1, overcast_frames=1)
    write_scene(make_scene(spec), folder / "cube.zarr", folder / "truth.zarr")
    return folder / "cube.zarr"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stand-in for Slurm: sbatch starts a job at once, beside this process, and scancel ends it."""
    queue, commands = tmp_path / "queue", tmp_path / "commands"
    queue.mkdir()
    commands.mkdir()
    number = f'number=$(( $(ls "{queue}" | grep -c "sh$" || true) + 1 ))'
    job = f'cp "$1" "{queue}/$number.sh"; setsid bash "{queue}/$number.sh" > "{queue}/$number.log" 2>&1 &'
    script(commands / "sbatch", number, job, f'echo $! > "{queue}/$number.pid"; echo "Submitted batch job $number"')
    script(commands / "scancel", f'kill -- "-$(cat "{queue}/$1.pid")" 2> /dev/null; touch "{queue}/$1.cancelled"')
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return queue


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/usr/bin/env bash", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def line_of(capsys: Any) -> str:
    """Return the error, which is a line on stderr and nothing else."""
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("stpipe: error: ")
    assert said.count("\n") == 1
    return str(said)


# --- show ------------------------------------------------------------------------------------------------------------


def test_every_packaged_cluster_has_a_page_that_begins_with_the_command() -> None:
    assert sorted(packaged_clusters()) == ["kubernetes", "local", "lsf", "pbs", "slurm"]
    for name in packaged_clusters():
        page = (shelf("cluster") / name / "README.md").read_text(encoding="utf-8")
        assert page.startswith("    stpipe fill-scene "), name
        assert f"stpipe cluster show {name} --yaml > my.yaml" in page


@pytest.mark.parametrize("name", ["kubernetes", "local", "lsf", "pbs", "slurm"])
def test_every_packaged_cluster_is_read_and_shown_and_its_copy_says_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["cluster", "show", name, "--yaml"]) == 0
    text = capsys.readouterr().out
    assert text == (shelf("cluster") / name / FILE).read_text(encoding="utf-8")
    Path("my.yaml").write_text(text)
    shown = []
    for each in (name, "my.yaml"):
        assert run(["cluster", "show", each, "--json"]) == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert [one.pop("name") for one in shown] == [name, "my.yaml"]
    assert shown[0] == shown[1]
    assert shown[0]["system"] == name
    assert (shown[0]["job_script"] is not None) == (name in JOB_SYSTEMS)
    assert run(["cluster", "show", name]) == 0
    printed, said = capsys.readouterr()
    assert said.startswith(f"stpipe: cluster {name}: ")
    if name in JOB_SYSTEMS:
        assert printed == shown[0]["job_script"].rstrip() + "\n"
        subprocess.run(["bash", "-n"], input=printed, text=True, check=True, timeout=10)
    else:
        assert yaml.safe_load(printed)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_what_is_commented_out_in_a_packaged_file_may_be_said(tmp_path: Path) -> None:
    for name in JOB_SYSTEMS:
        text = (shelf("cluster") / name / FILE).read_text(encoding="utf-8")
        jobs, rest = text.split("\ndistributed:")
        body = jobs.replace("\n    # ", "\n    ") + "\ndistributed:" + rest
        assert body != text
        (tmp_path / "all.yaml").write_text(body)
        plan = read_cluster_file(str(tmp_path / "all.yaml"))
        assert plan.keywords["job_script_prologue"] == ["module load python"]
        assert len(plan.keywords["job_extra_directives"]) == 1


# --- refusals --------------------------------------------------------------------------------------------------------

FILES = [
    pytest.param("", "a cluster's file holds keys and values", id="empty"),
    pytest.param("local: [", "bad.yaml, line 1: this is not YAML", id="no YAML"),
    pytest.param("local: !!python/object/apply:os.system ['touch hit']", "file has no tags", id="a tag"),
    pytest.param("local: !!map {n_workers: 1}", "line 1: a cluster's file has no tags", id="a tame tag"),
    pytest.param("a: &a [1]\nlocal: *a", "line 2: a cluster's file has no aliases", id="an alias"),
    pytest.param("local: {n_workers: 1, n_workers: 2}", "'n_workers' stands in line 1 already", id="a key twice"),
    pytest.param("? [1]\n: 2", "a key is a word", id="a key that is a list"),
    pytest.param("local:\n  memory: 4GiB", "bad.yaml, line 2: local.memory is no key that is known; did you mean "
                 "'memory_limit'?", id="another key"),
    pytest.param("jobqueue:\n  slurm:\n    cores: 1\n    walltime: 10:00:00", "line 4: jobqueue.slurm.walltime has to "
                 "stand in quotes", id="a walltime without quotes"),
    pytest.param("jobqueue:\n  slurm:\n    cores: 1\n    walltime: '01:00:00'", "slurm.memory is missing",
                 id="no memory"),
    pytest.param("[" * 500, "this is nested too deep", id="deep"),
    pytest.param("# " + "x" * (1 << 20), "larger than 1 MiB", id="large"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FILES)
@pytest.mark.parametrize(
    "words", [["cluster", "show"], ["cluster", "check"], ["plan", "CUBE", "--cluster"]], ids=" ".join
)
def test_a_bad_file_is_refused_in_a_line_and_runs_nothing(
    words: list[str], text: str, expected: str, cube: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(text)
    assert run([str(cube) if word == "CUBE" else word for word in [*words, "bad.yaml"]]) == 2
    assert expected in line_of(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"local: \xff\xfe")
    assert run(["cluster", "show", str(tmp_path / "bad.yaml")]) == 2
    assert "bad.yaml: this is not YAML" in line_of(capsys)


WORDS = [
    pytest.param(["--cluster", "slrum"], "no cluster 'slrum'; did you mean 'slurm'?", id="no such name"),
    pytest.param(
        ["--cluster", "no.yaml"], "there is no file no.yaml; clusters that come with stpipe are kub", id="no file"
    ),
    pytest.param(["--cluster", "local", "--scheduler", "tcp://a:1"], "give one of them", id="two clusters"),
    pytest.param(
        ["--cluster", "local", "--memory-limit", "1GiB"], "the file says how much a worker may take", id="memory"
    ),
    pytest.param(["--cluster", "local", "--workers", "0"], "need at least 1 worker", id="no workers"),
    pytest.param(["--cluster", "slurm", "--workers", "3"], "no whole number of jobs", id="half a job"),
]


@pytest.mark.parametrize("verb_name", ["fill-scene", "plan", "gaps"])
@pytest.mark.parametrize(("words", "expected"), WORDS)
def test_contradictions_are_refused(
    verb_name: str, words: list[str], expected: str, cube: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([verb_name, str(cube), "-o", "out", *words]) == 2
    assert expected in line_of(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["show", "slrum"], "did you mean 'slurm'?", id="no such name"),
        pytest.param(["show", "slurm", "--yaml", "--json"], "give one of them", id="two forms"),
        pytest.param(["check", "local", "--timeout", "0"], "above 0", id="no time"),
        pytest.param(["check", "local", "--cube", "no.zarr"], "there is no file or folder", id="no cube"),
        pytest.param(["check", "local", "--model", "no.keras"], "no model 'no.keras'", id="no model"),
        pytest.param(["check", "local", "-o", "FILE/in"], "is a file; name a folder", id="output in a file"),
        pytest.param(["check"], "Missing argument", id="nothing"),
    ],
)
def test_a_verb_that_can_not_be_done_is_refused(words: list[str], expected: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    assert run(["cluster", *(word.replace("FILE", str(tmp_path / "file")) for word in words)]) == 2
    assert expected in line_of(capsys)


def test_without_the_batch_system_it_is_said_before_anything_is_made(
    cube: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run(["fill-scene", str(cube), "--method", "linear", "--cluster", "slurm", "-o", "out"]) == 2
    assert "hands in jobs by sbatch, which is not on the PATH here" in line_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_is_refused_is_told_in_its_own_words(slurm: Path, cube: Path, tmp_path: Path, capsys: Any) -> None:
    script(tmp_path / "commands" / "sbatch", "echo 'sbatch: error: invalid partition: nope' >&2", "exit 1")
    (tmp_path / "my.yaml").write_text(JOBS)
    words = ["--method", "linear", "--cluster", str(tmp_path / "my.yaml"), "-o", str(tmp_path / "out")]
    assert run(["fill-scene", str(cube), *words]) == 2
    assert "sbatch refused the job: sbatch: error: invalid partition: nope; " in line_of(capsys)
    assert not (tmp_path / "out").exists()
    assert list(slurm.iterdir()) == []


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_takes_workers_and_memory_from_the_cluster(cube: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["plan", str(cube), "--method", "pyramid", "--no-scan", "--json", "-o", str(tmp_path / "out")]
    for more, workers in (([], 64), (["--workers", "16"], 16)):
        assert run([*words, "--cluster", "slurm", *more]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (plan["workers"], plan["memory_limit_bytes"]) == (workers, 4 * 2**30)
    assert run([*words, "--memory-limit", "4GiB"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == plan["run_id"]


# --- check and runs --------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_one_worker_of_this_machine_shows_what_it_can_do(cube: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "my.yaml").write_text(
        f"local: {{n_workers: 3, memory_limit: 1GiB, local_directory: {tmp_path}/scratch}}"
    )
    words = ["--cube", str(cube), "-o", str(tmp_path / "out" / "deep"), "--json"]
    assert run(["cluster", "check", str(tmp_path / "my.yaml"), *words]) == 0
    printed, said = capsys.readouterr()
    report = json.loads(printed)
    assert said.startswith("stpipe: cluster my.yaml: 1 worker of 1.0 GiB; dashboard at http://127.0.0.1:")
    assert report["worker"]["limit_bytes"] == 2**30
    assert report["worker"]["threads"] == 1
    assert report["worker"]["scratch"].startswith(f"{tmp_path}/scratch/")
    assert report["cube"]["path"] == str(cube)
    assert report["output"]["path"] == str(tmp_path)
    assert report["speed"]["samples"] > 1e5
    assert report["speed"]["seconds"] > 0
    assert report["notes"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.yaml", "scratch"]


@pytest.mark.processes
def test_a_job_shows_what_it_can_do_and_is_cancelled(slurm: Path, cube: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "my.yaml").write_text(JOBS.replace("cores: 1", "cores: 2").replace("1GiB", "2GiB"))
    assert run(["cluster", "check", str(tmp_path / "my.yaml"), "--cube", str(cube)]) == 0
    printed, said = capsys.readouterr()
    assert "2 workers of 1.0 GiB, 2 a job; dashboard at http://127.0.0.1:" in said
    titles = [line.split()[0] for line in printed.splitlines()]
    assert titles == ["worker", "memory", "cores", "lifetime", "cube", "speed"]
    assert {path.name for path in slurm.iterdir()} == {"1.sh", "1.pid", "1.log", "1.cancelled"}


@pytest.fixture(scope="module")
def client() -> Any:
    with Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as one:
        yield one


def examine(client: Client, **more: Any) -> dict[str, Any]:
    plan = ClusterPlan(name="a", system="local", keywords={}, minimum=1, maximum=1, worker_memory=None)
    asked = {"cube": None, "folder": None, "model": None, "expected": {}, **more}
    return verb._examine(client, plan, **asked)


@pytest.mark.processes
def test_what_a_worker_sees_otherwise_is_told(
    client: Client, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = verb._expected(str(cube.parent / "truth.zarr"), None)
    with pytest.raises(RunError, match=r"the worker on .* can't use the cube: under .* lies another cube than here"):
        examine(client, cube=str(cube), expected=other)
    with pytest.raises(RunError, match="can't use the cube: there is no file or folder"):
        examine(client, cube=str(tmp_path / "no.zarr"), expected=other)
    with pytest.raises(RunError, match=r"can't use the output folder: can't write into .*: No such file or directory"):
        examine(client, folder=tmp_path / "no")
    with pytest.raises(RunError, match="can't use the model: no model"):
        examine(client, model=str(tmp_path / "no.keras"), expected={"model": ""})
    monkeypatch.setattr("stpipe.io.cluster_probe.versions", lambda: {"stpipe": str(time.time())})
    assert "use the same on both" in examine(client)["notes"][0]


@pytest.mark.processes
def test_a_folder_that_is_another_one_there_is_found_out(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker's folder of that path is not ours: what it writes doesn't appear.
    monkeypatch.setattr("stpipe.io.cluster_probe.write", lambda _folder, _name, _content: {"path": ""})
    monkeypatch.setattr("stpipe.io.cluster_probe.read_soon.__defaults__", (0.3,))
    with pytest.raises(RunError, match="what the worker wrote does not appear here"):
        examine(client, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.processes
def test_a_job_that_is_killed_is_replaced_and_the_products_are_the_same_bytes(
    slurm: Path, cube: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "my.yaml").write_text(JOBS)
    common = ["fill-scene", str(cube), "--method", "pyramid", "--no-geotiff", "--block", "6,8,8"]
    out = tmp_path / "out"

    def kill() -> None:
        blocks = out / "work" / "records"
        while not any("fill" in path.name or path.is_dir() for path in blocks.glob("*")):
            time.sleep(0.1)
        subprocess.run(["kill", "-9", "--", f"-{(slurm / '1.pid').read_text().strip()}"], check=True)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    assert run([*common, "-o", str(out), "--cluster", str(tmp_path / "my.yaml"), "--workers", "1"]) == 0
    killer.join(timeout=1)
    assert {path.stem for path in slurm.glob("*.sh")} == {"1", "2"}
    assert run([*common, "-o", str(tmp_path / "here"), "--workers", "1", "--memory-limit", "1GiB"]) == 0
    capsys.readouterr()
    products = [json.loads((place / "run.json").read_text())["products"] for place in (out, tmp_path / "here")]
    assert products[0] == products[1]


@pytest.mark.slow
@pytest.mark.processes
def test_jobs_hand_over_before_their_walltime(slurm: Path, cube: Path, tmp_path: Path, capsys: Any) -> None:
    lives = JOBS.replace("  deploy", "  worker: {lifetime: {duration: 6s, stagger: 1s}}\n  deploy")
    (tmp_path / "my.yaml").write_text(lives.replace("00:10:00", "00:01:00"))
    words = ["--method", "pyramid", "--no-geotiff", "--block", "6,8,8", "-o", str(tmp_path / "out")]
    assert run(["fill-scene", str(cube), *words, "--cluster", str(tmp_path / "my.yaml"), "--workers", "1"]) == 0
    assert len(list(slurm.glob("*.sh"))) >= 2
    assert "worker-lifetime-reached" in (slurm / "1.log").read_text()


@pytest.mark.slow
@pytest.mark.processes
def test_a_worker_loads_the_packaged_weights(capsys: Any) -> None:
    assert run(["cluster", "check", "local", "--model", "default"]) == 0
    assert "default: loaded in " in capsys.readouterr().out


@pytest.mark.processes
def test_gaps_run_on_a_cluster_too(cube: Path, tmp_path: Path, capsys: Any) -> None:
    for name, more in (("a", ["--cluster", "local", "--workers", "1"]), ("b", [])):
        assert run(["gaps", str(cube), "-o", str(tmp_path / name), *more]) == 0
        assert ("cluster local: 1 worker" in capsys.readouterr().err) == bool(more)
    assert (tmp_path / "a" / "ndvi_gaps.tif").read_bytes() == (tmp_path / "b" / "ndvi_gaps.tif").read_bytes()
