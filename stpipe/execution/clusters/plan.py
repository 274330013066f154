"""A cluster that may be started, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stpipe.errors import OptionError

System = Literal["local", "slurm", "pbs", "lsf", "kubernetes"]
"""What starts the workers."""

JOB_SYSTEMS = ("slurm", "pbs", "lsf")
"""Those that take job scripts."""

LIFETIME, STAGGER = "distributed.worker.lifetime.duration", "distributed.worker.lifetime.stagger"
LIFETIME_SHARE, STAGGER_SHARE = 0.85, 0.1
"""Shares of the walltime after which a worker hands over, and by which it does so sooner or later than others."""

ENCRYPTION = "distributed.comm.require-encryption"
DASHBOARD = "127.0.0.1:0"
"""Where the dashboard is unless a file says otherwise: this machine alone may look, at any free port."""

_TLS = "distributed.comm.tls"
CERTIFICATES = (f"{_TLS}.ca-file", *(f"{_TLS}.{who}.{what}" for who in ("scheduler", "worker", "client")
                                     for what in ("cert", "key")))  # fmt: skip
"""Files of certificates; all of them, or none for ones that are made for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPlan:
    """A cluster that may be started."""

    name: str
    """What the user calls it: a packaged name, or a file."""

    system: System
    """What starts its workers."""

    keywords: Mapping[str, Any]
    """Keywords of the Dask class that does."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """Dask's settings by their dotted names, besides those that stpipe sets for every cluster."""

    minimum: int
    """Fewest workers."""

    maximum: int
    """Most workers."""

    worker_memory: int | None
    """Bytes a worker may take; None for a share of this machine's."""

    per_job: int = 1
    """Workers that one job starts."""

    @property
    def encrypted(self) -> bool:
        """Whether workers and scheduler speak TLS alone."""
        return bool(self.settings.get(ENCRYPTION))

    @property
    def own_certificates(self) -> bool:
        """Whether the file names certificates, so that none are made for the run."""
        return any(self.settings.get(name) for name in CERTIFICATES)

    def with_workers(self, count: int | None) -> ClusterPlan:
        """Return the plan with a number of workers that doesn't change; the same plan for None.

        Raises
        ------
        OptionError
            If jobs can't start just so many.
        """
        if count is None:
            return self
        if count % self.per_job:
            raise OptionError(
                f"--workers {count} is no whole number of jobs: each one of {self.name} starts {self.per_job}; take a "
                "multiple of that, or a copy with other cores and memory"
            )
        return replace(self, minimum=count, maximum=count)
