"""What is kept at other sites by itself, and how jobs are worked off."""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator

from dwcp.config.fields import Duration, Rate, Section, choice, duration, flag, integer, rate, string
from dwcp.units import parse_keep, parse_percent, parse_rate

NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}:[^/]+/.*[^/]")
NEVER_OVER_HTTP = ("before", "after")
"""Commands that a workload runs: whoever has the HTTP token does not get a shell by it."""
LEAST_RATE = 10**6
"""Bits per second, as transport.pacing_rate."""


class WorkloadSection(Section):
    """A file or tree that is kept at other sites. Without `every`, `cron` and `on_change` it runs on request."""

    source: str = Field(
        pattern=r"^/", description="File or directory here.", json_schema_extra={"allowed": "an absolute path"}
    )
    targets: list[str] = Field(
        min_length=1,
        max_length=64,
        description="What it becomes, and where.",
        json_schema_extra={"allowed": "a list of PEER:EXPORT/PATH"},
    )
    enabled: bool = flag(True, "false: it does not run by itself.")
    every: Duration | None = duration(None, "1s", "365d", "From one run to the next.")
    cron: str = string("", 'five fields as in crontab(5), or ""', "When it runs, local time; one run is made up for.")
    on_change: bool = flag(False, "Run when the source has changed (inotify), and has rested.")
    settle: Duration = duration("2s", "100ms", "1h", "How long without a change is rest.")
    keep: str = string("", 'all, or rules like "last 5, daily 7"; "" for no versions', "Versions kept at each target.")
    delete: bool = flag(True, "Remove at the target what the source does not have.")
    checksum: Literal["xxh3", "blake3"] = choice("xxh3", "Hash of blocks and files on the way.", "xxh3", "blake3")
    bandwidth: str = string("100%", "a percentage of the node's rate, or a rate", "What its transfers may take, each.")
    owners: list[Annotated[str, Field(pattern=NODE_NAME)]] = Field(
        default_factory=list,
        max_length=64,
        description="With consensus: the nodes of which one at a time owns it and runs it, the first one first. Each "
        "declares it, with its own source and targets. None: every node runs what it declares.",
        json_schema_extra={"allowed": "a list of names of nodes", "default": "none"},
    )
    failover: Literal["complete", "any"] = choice(
        "complete",
        "Which copy may take over: complete: one that is wholly of one moment. any: where there is none, also one that "
        "is half overwritten.",
        "complete",
        "any",
    )
    priority: int = integer(5, 0, 9, "Its jobs go before those of a lower one.")
    max_age: Duration | None = duration(
        None, "1s", "365d", "Age of the newest state at a target (RPO) from which on it counts as stale."
    )
    verify_every: Duration | None = duration(None, "1m", "365d", "From one check of the stored versions to the next.")
    verify_rate: Rate = rate(
        400 * 10**6, 10**6, 10**12, "How fast a check reads the target's disk.", "1Mbit/s to 1Tbit/s"
    )
    before: list[str] = Field(
        default_factory=list,
        description="Command to run before each transfer; where it fails nothing is sent.",
        json_schema_extra={"allowed": "a list: program and arguments, no shell", "default": "none"},
    )
    after: list[str] = Field(
        default_factory=list,
        description="Command to run after each transfer, however it ended.",
        json_schema_extra={"allowed": "a list: program and arguments, no shell", "default": "none"},
    )
    hook_timeout: Duration = duration("5m", "100ms", "1d", "How long one of them may take.")

    @field_validator("targets")
    @classmethod
    def _targets(cls, value: list[str]) -> list[str]:
        for target in value:
            if not TARGET.fullmatch(target):
                raise ValueError(f"{target!r} is no target; write PEER:EXPORT/PATH")
        if len(set(value)) < len(value):
            raise ValueError("a target is named twice")
        return value

    @field_validator("owners")
    @classmethod
    def _owners(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("an owner is named twice")
        return value

    @field_validator("cron")
    @classmethod
    def _cron(cls, value: str) -> str:
        if value:
            check_cron(value)
        return value

    @field_validator("keep")
    @classmethod
    def _keep(cls, value: str) -> str:
        if value:
            parse_keep(value)
        return value

    @field_validator("bandwidth")
    @classmethod
    def _bandwidth(cls, value: str) -> str:
        if parse_percent(value) is None and parse_rate(value) < LEAST_RATE:
            raise ValueError(f"{value} is less than 1Mbit/s, the least that can be kept to")
        return value

    @model_validator(mode="after")
    def _verifiable(self) -> WorkloadSection:
        if self.verify_every is not None and not self.keep:
            raise ValueError("verify_every needs versions to verify; set keep")
        return self


class JobsSection(Section):
    """How the jobs of workloads, and those that are added by command, are worked off."""

    at_once: int = integer(4, 1, 64, "Jobs that run at one time.")
    per_peer: int = integer(2, 1, 64, "Of them with one peer.")
    retries: int = integer(8, 0, 1000, "Further tries before a job that fails is parked.")
    backoff: Duration = duration("10s", "10ms", "1h", "Pause before the first of them; it doubles.")
    max_backoff: Duration = duration("15m", "10ms", "1d", "What it doubles up to.")
    keep_ended: int = integer(1000, 10, 100_000, "Ended jobs that are remembered.")


def check_cron(line: str) -> None:
    """Raises ValueError."""
    try:
        CronSim(line, datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
    except CronSimError as error:
        raise ValueError(f"{line!r} is no cron line ({error}); write for example 0 3 * * *") from error
