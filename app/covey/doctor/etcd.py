"""Judges the etcd cluster that this pool's leadership is held in, endpoint by endpoint."""

from __future__ import annotations

from covey.config import Configuration
from covey.doctor.finding import Finding, fail, ok, warn
from covey.leadership import NO_SUCH_POOL, etcd_problems


def check_etcd(configuration: Configuration, pool_id: str | None) -> list[Finding]:
    """Asks each endpoint, which answers only as one of a majority; a few seconds at most."""
    return judge_etcd(etcd_problems(configuration, pool_id or NO_SUCH_POOL))


def judge_etcd(problems: dict[str, tuple[str, str]]) -> list[Finding]:
    """As long as one endpoint answers, leadership works; with none of them the pool has no leader."""
    answering = [endpoint for endpoint, (problem, _) in problems.items() if not problem]
    worse = warn if answering else fail
    return [
        worse("etcd", problem, advice) if problem else ok("etcd", f"{endpoint} answers as one of a majority")
        for endpoint, (problem, advice) in problems.items()
    ]
