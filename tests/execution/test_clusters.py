"""Clusters as files say them: what is read is what Dask would do, and what can't be is refused where it stands."""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue  # noqa: F401 - brings the names of its settings
import pytest
from dask.utils import parse_bytes, parse_timedelta
from distributed import LocalCluster, Nanny, Scheduler, Worker
from hypothesis import given, settings
from hypothesis import strategies as st

from stpipe.core.sizes import MIB
from stpipe.errors import OptionError
from stpipe.execution.clusters import start as cluster_start
from stpipe.execution.clusters.batch import JOBS, SCHEDULER_OPTIONS, walltime_seconds
from stpipe.execution.clusters.connect import local_settings
from stpipe.execution.clusters.environment import environment, exports, with_environment
from stpipe.execution.clusters.files import read_cluster
from stpipe.execution.clusters.local import LOCAL
from stpipe.execution.clusters.plan import CERTIFICATES, JOB_SYSTEMS, LIFETIME, STAGGER, ClusterPlan
from stpipe.execution.clusters.start import job_keywords, job_script, kubernetes_keywords

KNOWN = dask.config.config["distributed"]
WALLTIMES = {"slurm": "01:00:00", "pbs": "01:00:00", "lsf": "01:00"}


def read(content: Any, **more: Any) -> ClusterPlan:
    return read_cluster(content, name="my.yaml", known=KNOWN, cores=3, **more)


def jobs(system: str = "slurm", *, of_dask: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A file on a batch system; underscores stand for hyphens, and None takes a key away."""
    table = {"cores": 2, "memory": "8GiB", "walltime": WALLTIMES[system]}
    table |= {key.replace("_", "-"): value for key, value in keys.items()}
    own = {"adaptive": {"minimum": 0, "maximum": 4}} if of_dask is None else dict(of_dask)
    return {"jobqueue": {system: table}, "distributed": own}


def pods(**keys: Any) -> dict[str, Any]:
    table = {
        "name": "stpipe",
        "worker_command": ["dask", "worker", "--nthreads", "1"],
        "resources": {"limits": {"memory": "4Gi"}},
        **keys,
    }
    return {"kubernetes": {k: v for k, v in table.items() if v != "away"}, "distributed": {"adaptive": {"maximum": 5}}}


# --- the tables are those of the libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize("system", JOB_SYSTEMS)
def test_keys_of_jobs_are_those_of_dask_jobqueue_that_it_does_not_call_deprecated(system: str) -> None:
    deprecated = {"extra", "env-extra", "job-extra", "header-skip"}
    fixed = {"worker-command"}  # another command has no nanny, and takes none of the options
    assert set(JOBS[system]) == set(dask.config.get(f"jobqueue.{system}")) - deprecated - fixed


def test_keywords_of_a_local_cluster_and_of_its_scheduler_are_distributeds() -> None:
    taken = {name for cls in (LocalCluster, Nanny, Worker) for name in inspect.signature(cls.__init__).parameters}
    assert set(LOCAL) <= taken
    assert set(SCHEDULER_OPTIONS) <= set(inspect.signature(Scheduler.__init__).parameters)


def test_what_certificates_and_lifetimes_are_called_is_what_dask_calls_them() -> None:
    for name in (*CERTIFICATES, LIFETIME, STAGGER):
        dask.config.get(name)  # KeyError if there is no such setting


# --- reading ----------------------------------------------------------------------------------------------------------


@given(days=st.integers(0, 9), hours=st.integers(0, 23), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_walltimes_are_read_as_each_batch_system_reads_them(days: int, hours: int, minutes: int, seconds: int) -> None:
    clock = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    total = (hours * 60 + minutes) * 60 + seconds
    assert walltime_seconds("slurm", clock) == walltime_seconds("pbs", clock) == total
    assert walltime_seconds("slurm", f"{days + 1}-{clock}") == total + (days + 1) * 86400
    assert walltime_seconds("slurm", str(minutes + 1)) == walltime_seconds("lsf", str(minutes + 1)) == 60 * minutes + 60
    assert walltime_seconds("lsf", f"{hours:02d}:{minutes + 1:02d}") == hours * 3600 + 60 * minutes + 60
    assert walltime_seconds("pbs", str(seconds)) == seconds


@given(
    system=st.sampled_from(JOB_SYSTEMS),
    cores=st.integers(1, 64),
    gigabytes=st.integers(1, 512),
    minutes=st.integers(2, 6000),
    most=st.integers(1, 50),
)
def test_a_worker_gets_its_share_and_hands_over_before_the_walltime(
    system: str, cores: int, gigabytes: int, minutes: int, most: int
) -> None:
    end = "" if system == "lsf" else ":00"
    content = jobs(
        system,
        cores=cores,
        memory=f"{gigabytes}GiB",
        walltime=f"{minutes // 60:02d}:{minutes % 60:02d}{end}",
        of_dask={"adaptive": {"maximum": most * cores}},
    )
    if gigabytes * 1024 / cores < 256:
        with pytest.raises(OptionError, match=r"memory is the job's; shared by \d+ workers"):
            read(content)
        return
    plan = read(content)
    assert (plan.minimum, plan.maximum, plan.per_job) == (0, most * cores, cores)
    assert plan.worker_memory == pytest.approx(gigabytes * 2**30 / cores, rel=0.006)
    last = sum(parse_timedelta(plan.settings[name]) for name in (LIFETIME, STAGGER))
    assert 0.5 * minutes * 60 < last < minutes * 60


@pytest.mark.parametrize("system", JOB_SYSTEMS)
@given(data=st.data())
def test_a_key_with_a_letter_too_few_is_refused_with_the_right_one(system: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from([key for key in sorted(JOBS[system]) if len(key) > 4]))
    gone = data.draw(st.integers(1, len(key) - 1))
    wrong = key[:gone] + key[gone + 1 :]
    content = jobs(system)
    content["jobqueue"][system][wrong] = 1
    lines = {("jobqueue", system, wrong): 7}
    near = re.escape(f"my.yaml, line 7: jobqueue.{system}.{wrong} is no key that is known; did you mean '{key}'?")
    with pytest.raises(OptionError, match=near):
        read(content, lines=lines)


@given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                          lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner)),
       at=st.sampled_from(["", "local", "jobqueue", "kubernetes", "distributed", "jobqueue.slurm", "distributed.worker",
                           "jobqueue.slurm.scheduler-options", "distributed.adaptive", "kubernetes.resources",
                           *(f"jobqueue.slurm.{key}" for key in JOBS["slurm"]), *(f"local.{key}" for key in LOCAL),
                           "distributed.comm.tls", "distributed.worker.lifetime", "distributed.nanny.environ",
                           "distributed.worker.lifetime.duration", "kubernetes.custom_cluster_spec"]))  # fmt: skip
def test_whatever_stands_in_a_file_it_is_read_or_refused_in_one_line(value: Any, at: str) -> None:
    content: Any = {"local": {}} if at.startswith("local") else pods() if at.startswith("kubernetes") else jobs()
    if at:
        *path, last = at.split(".")
        inner = content
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = value
    else:
        content = value
    before = copy.deepcopy(content)
    plan, message = None, "my.yaml: "
    try:
        plan = read(content)
    except OptionError as error:
        message = str(error)
    assert plan is None or 0 <= plan.minimum <= plan.maximum
    assert message.startswith("my.yaml: ")
    assert len(message) < 1200
    assert content == before


REFUSALS = [
    pytest.param([1], "a cluster's file holds keys and values, got", id="a list"),
    pytest.param({}, "needs one of local, jobqueue and kubernetes, got none of them", id="nothing"),
    pytest.param({"local": {}, **jobs()}, "got local and jobqueue", id="two systems"),
    pytest.param({"jobqueue": {"slurn": {}}}, "did you mean 'slurm'?", id="no such batch system"),
    pytest.param({"local": {"n_wokers": 2}}, "local.n_wokers is no key that is known; did you mean", id="n"),
    pytest.param({"local": {"n_workers": 0}}, "local.n_workers needs a whole number, 1 or more, got 0", id="none"),
    pytest.param({"local": {"threads_per_worker": 4}}, "has to be 1", id="threads here"),
    pytest.param({"local": {"memory_limit": "4"}}, "needs a size such as 4GiB", id="a size without its unit"),
    pytest.param(
        {"local": {"n_workers": 2}, "distributed": {"adaptive": {"maximum": 4}}}, "leave one", id="fixed and adaptive"
    ),
    pytest.param(
        {"local": {}, "distributed": {"adaptive": {"minimum": 5, "maximum": 4}}}, "more than the maximum", id="bounds"
    ),
    pytest.param({"local": {}, "distributed": {"adaptive": {"minimum": 1}}}, "needs a maximum beside it", id="a least"),
    pytest.param({"local": {}, "distributed": {"worker": {"memry": 1}}}, "did you mean 'memory'?", id="setting"),
    pytest.param(jobs(walltime=3600), "has to stand in quotes, such as '01:00:00'", id="a walltime to the base of 60"),
    pytest.param(jobs(walltime="an hour"), "walltime needs a time such as HH:MM:SS", id="no walltime"),
    pytest.param(jobs("lsf", walltime="01:00:00"), "walltime needs a time such as HH:MM, got", id="another's walltime"),
    pytest.param(jobs(memory=None), "jobqueue.slurm.memory is missing", id="no memory"),
    pytest.param(jobs(processes=1), "processes is 1 with 2 cores", id="workers with threads"),
    pytest.param(jobs(worker_extra_args=["--nthreads=4"]), "can't have --nthreads=4; say it by cores", id="threads"),
    pytest.param(jobs(scheduler_options={"hots": "x"}), "did you mean 'host'?", id="no such option of the scheduler"),
    pytest.param(jobs(of_dask={}), "distributed.adaptive.maximum has to say how many", id="no bounds"),
    pytest.param(jobs(of_dask={"adaptive": {"maximum": 3}}), "no whole number of jobs with 2", id="half a job"),
    pytest.param(
        jobs(of_dask={"adaptive": {"maximum": 4}, "worker": {"lifetime": {"duration": "58m", "stagger": "3m"}}}),
        "come to 3660 s, but the job ends after 3600 s",
        id="a lifetime past the walltime",
    ),
    pytest.param(
        jobs(worker_extra_args=["--lifetime", "2 hours"]), "come to 7200 s, but", id="the same on the command line"
    ),
    pytest.param(
        jobs(of_dask={"adaptive": {"maximum": 4}, "comm": {"require-encryption": True}}),
        "shared-temp-directory has to name a folder",
        id="temporary certificates without a place",
    ),
    pytest.param(
        jobs(of_dask={"adaptive": {"maximum": 4}, "comm": {"require-encryption": True, "tls": {"ca-file": "a.pem"}}}),
        "distributed.comm.tls.scheduler.cert is missing",
        id="some certificates",
    ),
    pytest.param(
        jobs(of_dask={"adaptive": {"maximum": 4}, "comm": {"tls": {"ca-file": "a.pem"}}}),
        "require-encryption isn't true",
        id="certificates without encryption",
    ),
    pytest.param(pods(worker_command="dask-worker"), "--nthreads 1", id="pods with threads"),
    pytest.param(pods(resources={"limits": {"memory": "4"}}), "resources.limits.memory such as 4Gi", id="pods' memory"),
    pytest.param(pods(create_mode="SHARE"), "is one of CREATE_ONLY", id="no such mode"),
    pytest.param(pods(custom_cluster_spec={"spec": {}}), "leave one of them out", id="two descriptions of pods"),
    pytest.param(
        {**pods(), "distributed": {"adaptive": {"maximum": 2}, "comm": {"require-encryption": True}}},
        "can't be had on Kubernetes",
        id="encrypted pods",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), REFUSALS)
def test_what_can_not_be_is_refused(content: Any, expected: str) -> None:
    with pytest.raises(OptionError, match=re.escape(expected)) as refused:
        read(content)
    assert str(refused.value).startswith("my.yaml: ")
    assert "\n" not in str(refused.value)


def test_workers_are_so_many_as_asked_for_in_whole_jobs() -> None:
    plan = read(jobs())
    assert plan.with_workers(None) is plan
    fixed = plan.with_workers(6)
    assert (fixed.minimum, fixed.maximum) == (6, 6)
    with pytest.raises(OptionError, match=r"--workers 3 is no whole number of jobs: each one of my.yaml starts 2"):
        plan.with_workers(3)
    here = read({"local": {}})
    assert (here.minimum, here.maximum, here.worker_memory) == (3, 3, None)


# --- what would be started --------------------------------------------------------------------------------------------


def test_settings_come_to_workers_as_they_are_said() -> None:
    said = {**local_settings(), **read(jobs()).settings, "distributed.comm.retry.count": 3}
    told = environment(said, scheduler=True)
    code = (
        "import dask, distributed, json, os; print(json.dumps([{n: dask.config.get(n) for n in %r}, dict(os.environ)]))"
    )
    names = [name for name in said if not name.startswith(("distributed.nanny.", "distributed.adaptive."))]
    script = "\n".join([*exports(told), f'"{sys.executable}" -c "{code % (names,)}"'])
    done = subprocess.run(["bash", "-eu"], input=script, capture_output=True, text=True, check=True, timeout=60)
    heard, environ = json.loads(done.stdout)
    assert heard == {name: said[name] for name in names}
    assert environ["OMP_NUM_THREADS"] == "1"
    assert environ["MALLOC_TRIM_THRESHOLD_"] == str(64 * MIB)


def test_workers_are_not_told_of_the_driver_and_the_scheduler() -> None:
    told = environment({**local_settings(), **read(jobs()).settings}, scheduler=False)
    assert not [name for name in told if "ADAPTIVE" in name or "SCHEDULER" in name]


@pytest.mark.parametrize("system", JOB_SYSTEMS)
@settings(max_examples=20)  # each starts a shell
@given(
    cores=st.integers(1, 16),
    prologue=st.lists(st.sampled_from(["module load python", "export A='b c'"]), max_size=2),
    queue=st.none() | st.sampled_from(["short", "long"]),
)
def test_a_job_script_says_what_the_file_says(system: str, cores: int, prologue: list[str], queue: str | None) -> None:
    content = jobs(
        system,
        cores=cores,
        memory=f"{cores}GiB",
        queue=queue,
        job_script_prologue=prologue,
        local_directory="${TMPDIR:-/tmp}",
        of_dask={"adaptive": {"maximum": cores}},
    )
    plan = read(content)
    script = job_script(plan, {**local_settings(), **plan.settings})
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=10)
    *before, command, last = script.split("\n")
    assert not last
    assert command.startswith(f"{sys.executable} -m distributed.cli.dask_worker tcp://SCHEDULER:PORT --name NAME ")
    assert "--nthreads 1 --memory-limit 1.00GiB " in command
    assert ("--nworkers" in command) == (cores > 1)
    assert command.endswith("--local-directory ${TMPDIR:-/tmp}")
    assert set(prologue) <= set(before)
    mark = {"slurm": "#SBATCH -p ", "pbs": "#PBS -q ", "lsf": "#BSUB -q "}[system]
    assert [line for line in before if line.startswith(mark)] == ([] if queue is None else [mark + queue])


def test_a_job_script_leaves_no_folder_of_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHERE", "logs")
    plan = read(jobs(log_directory="$WHERE/of/workers"))
    assert "#SBATCH -e logs/of/workers/" in job_script(plan, {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "logs").mkdir()
    job_script(plan, {})
    assert [path.name for path in tmp_path.rglob("*")] == ["logs"]


def test_encrypted_jobs_are_told_their_certificates(tmp_path: Path) -> None:
    own = {"cert": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    tls = {"ca-file": str(tmp_path / "ca.pem"), "scheduler": own, "worker": own, "client": own}
    plan = read(jobs(of_dask={"adaptive": {"maximum": 4}, "comm": {"require-encryption": True, "tls": tls}}))
    script = job_script(plan, plan.settings)
    assert f"--tls-ca-file {tmp_path}/ca.pem --tls-cert {tmp_path}/c.pem --tls-key {tmp_path}/k.pem" in script
    assert "tls://SCHEDULER:PORT" in script
    with pytest.raises(OptionError, match=r"ca-file names .*ca\.pem, which is no file here"):
        cluster_start._security(plan)


def test_certificates_that_are_made_for_a_run_are_there_for_its_jobs_alone_and_gone_with_it(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    dask_settings = {"adaptive": {"maximum": 4}, "comm": {"require-encryption": True}}
    plan = read(jobs(shared_temp_directory=str(keys), of_dask=dask_settings))
    with (
        pytest.raises(OptionError, match=r"my.yaml: certificates for jobs can't be written into .*keys: No such file"),
        cluster_start._shared(plan, str(keys)),
    ):
        pass
    keys.mkdir(mode=0o755)
    with cluster_start._shared(plan, str(keys)) as security:
        assert security is not None
        worker = security.get_tls_config_for_role("worker")
        files = [Path(worker[name]) for name in ("ca_file", "cert", "key")]
        assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
        (place,) = keys.iterdir()
        assert place.stat().st_mode & 0o777 == 0o700
        assert {file.parent for file in files} == {place}
        assert "PRIVATE KEY" in files[2].read_text()
        assert security.get_tls_config_for_role("scheduler")["key"] == files[2].read_text()
    assert list(keys.iterdir()) == []


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    with pytest.raises(OptionError, match=r"my.yaml needs dask-jobqueue, .* pip install 'stpipe\[hpc\]'"):
        job_script(read(jobs()), {})
    with (
        pytest.raises(OptionError, match=r"my.yaml needs dask-kubernetes, .* pip install 'stpipe\[kubernetes\]'"),
        cluster_start.started(read(pods()), {}, 2**30),
    ):
        pass


def test_pods_are_told_the_settings_but_not_over_their_own() -> None:
    said = {"distributed.scheduler.worker-saturation": 1.0, "distributed.nanny.pre-spawn-environ.A": 1}
    plain = kubernetes_keywords(read(pods(env={"A": 7})), said)
    told = {one["name"]: one["value"] for one in plain["env"]}
    assert told == {"A": "7", "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0"}
    container = {"name": "c", "args": ["--nthreads", "1"], "resources": {"limits": {"memory": "1Gi"}}}
    part = {"spec": {"containers": [container, {"name": "side"}], "volumes": ["v"]}}
    spec = {"kind": "DaskCluster", "metadata": {"name": "n"}, "spec": {"worker": part, "scheduler": part}}
    before = copy.deepcopy(spec)
    full = with_environment(spec, told)
    assert spec == before
    for name in ("worker", "scheduler"):
        assert full["spec"][name]["spec"]["volumes"] == ["v"]
        for one in full["spec"][name]["spec"]["containers"]:
            assert {e["name"]: e["value"] for e in one.pop("env")} == told
    assert full == spec or full["spec"]["worker"]["spec"]["containers"] == part["spec"]["containers"]
    away = ("name", "worker_command", "resources")
    plan = read(pods(custom_cluster_spec=spec, **dict.fromkeys(away, "away")))
    assert plan.worker_memory == parse_bytes("1GiB")
    assert kubernetes_keywords(plan, said)["custom_cluster_spec"]["metadata"] == {"name": "n"}


def test_shell_words_of_the_prologue_come_after_the_settings() -> None:
    lines = job_keywords(read(jobs(job_script_prologue=["export OMP_NUM_THREADS=4"])), local_settings())
    assert lines["job_script_prologue"].index("export OMP_NUM_THREADS=1") < len(lines["job_script_prologue"]) - 1
    assert lines["job_script_prologue"][-1] == "export OMP_NUM_THREADS=4"


def test_nothing_of_the_environment_is_needed_to_read_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        monkeypatch.delenv(name)
    assert read(jobs()).system == "slurm"
