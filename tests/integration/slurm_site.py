"""A Slurm of one node on this machine: munged, slurmctld and slurmd on loopback, in a folder of their own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")

PATIENCE = 60.0
"""Seconds that a daemon, or a job of no weight, may take to answer."""

CONFIGURATION = """\
ClusterName=stpipe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
KillWait=5
MinJobAge=3600
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=closed Nodes={host} MaxTime=INFINITE State=DOWN
"""


def why_not() -> str | None:
    """Return why no Slurm can be started here, or None if one can."""
    missing = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=_search()) is None]
    if missing:
        return f"needs {', '.join(missing)}: make integration installs slurm-wlm and munge from Debian's packages"
    if os.geteuid() != 0:
        return "slurmd starts jobs as their users, which needs root"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "there is no user munge, which Debian's package makes"
    return None


def _search() -> str:
    """Daemons lie in sbin, which is not on everybody's PATH."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at; all are held until all are known, so that none comes twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def wait_for(said: str, happened: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait until something has happened; fail with what it was if it has not after `patience` seconds."""
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, f"{said} did not happen within {patience:g} s"
        time.sleep(0.05)


@dataclass
class SlurmSite:
    """The daemons and how to talk to them."""

    folder: Path
    """Where everything of theirs lies; seen by all users."""

    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def configuration(self) -> Path:
        """The file that Slurm's commands are told of by SLURM_CONF."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What commands need to find this Slurm and no other."""
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def start(self) -> None:
        """Start the daemons and wait until a node takes jobs."""
        host = socket.gethostname().split(".")[0]
        controller, node = _free_ports(2)
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host,
                folder=self.folder,
                controller_port=controller,
                node_port=node,
                cores=os.cpu_count(),
                megabytes=int(0.9 * megabytes),
            )
        )
        self._start_munge()
        for name in ("slurmctld", "slurmd"):
            self._daemon(name, "-D", "-f", str(self.configuration))
        wait_for("a node that takes jobs", lambda: self.ask("sinfo", "-h", "-p", "main", "-o", "%T").startswith("idle"))

    def _start_munge(self) -> None:
        """Start munged as its own user, with a key and a socket of this folder."""
        user, place = pwd.getpwnam("munge"), self.folder / "munge"
        key = place / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for path in (place, key):
            os.chown(path, user.pw_uid, user.pw_gid)
        files = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munged.seed",
        }
        options = [f"--{option}={place / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", f"--key-file={key}", *options, user="munge")
        wait_for("munge's socket", (place / "munge.socket").exists)

    def _daemon(self, name: str, *words: str, user: str | None = None) -> None:
        program = shutil.which(name, path=_search())
        assert program is not None
        with (self.folder / f"{name}.out").open("wb") as output:
            self.daemons.append(
                subprocess.Popen(
                    [program, *words], stdout=output, stderr=subprocess.STDOUT, user=user, env=self.environment
                )
            )

    def stop(self) -> None:
        """End all jobs and the daemons."""
        if len(self.daemons) == len(DAEMONS):
            self.cancel_all()
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def cancel_all(self) -> None:
        """End all jobs, and wait until they have gone."""
        for job in self.jobs("PENDING", "RUNNING", "CONFIGURING", "COMPLETING"):
            self.ask("scancel", job)
        wait_for("the end of all jobs", lambda: not self.jobs("PENDING", "RUNNING", "CONFIGURING", "COMPLETING"))

    def ask(self, *words: str) -> str:
        """Return what one of Slurm's commands prints, without its line end; nothing if it fails."""
        return self._done(words).stdout.strip()

    def _done(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, env=self.environment, check=False, timeout=PATIENCE
        )

    def submit(self, words: Sequence[str]) -> str:
        """Hand in a job by sbatch's words and return its number."""
        command = ["sbatch", "--parsable", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, check=False, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def jobs(self, *states: str) -> list[str]:
        """Return the numbers of the jobs in some states, or of all, with those that have ended; oldest first."""
        lines = self.ask("squeue", "-h", "-r", "-t", ",".join(states) or "all", "-o", "%A", "--sort=i").split()
        return list(dict.fromkeys(lines))

    def state(self, job: str) -> str:
        """Return the state of a job, such as RUNNING, COMPLETED, CANCELLED, TIMEOUT."""
        return self.ask("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")

    def logs(self, paths: Sequence[str] = ("munged", "slurmctld", "slurmd")) -> str:
        """Return the ends of what the daemons wrote, for a failure's message."""
        texts = [(self.folder / f"{name}.out").read_text(errors="replace")[-2000:] for name in paths]
        return "\n".join(texts)
