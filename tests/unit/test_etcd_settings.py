"""The settings of leadership in etcd: what goes together, what is missing, and what the doctor makes of the answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from covey.config import Configuration
from covey.doctor.etcd import judge_etcd
from covey.errors import ConfigurationError, UserError
from covey.leadership import etcd_problems, leadership_source

ENDPOINTS = ("10.0.0.1:2379",)
FILE = Path("file.pem")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"etcd_endpoints": ENDPOINTS, "etcd_ca": FILE, "etcd_certificate": FILE}, "go together"),
        ({"etcd_endpoints": ENDPOINTS, "etcd_ca": FILE, "etcd_key": FILE}, "go together"),
        ({"etcd_endpoints": ENDPOINTS, "etcd_certificate": FILE, "etcd_key": FILE}, "without etcd_ca"),
        ({"etcd_ca": FILE}, "no etcd"),
        ({"etcd_certificate": FILE, "etcd_key": FILE}, "no etcd"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_do(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        Configuration(runtime_dir=Path("/run/covey"), **settings).check()  # type: ignore[arg-type]
    assert refused.value.next_step


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"etcd_endpoints": ENDPOINTS},
        {"etcd_endpoints": ENDPOINTS, "etcd_ca": FILE},
        {"etcd_endpoints": ENDPOINTS, "etcd_ca": FILE, "etcd_certificate": FILE, "etcd_key": FILE},
    ],
)
def test_what_goes_together_is_taken(settings: dict[str, object]) -> None:
    Configuration(runtime_dir=Path("/run/covey"), **settings).check()  # type: ignore[arg-type]


@pytest.fixture
def without_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where covey was installed without its extra."""
    monkeypatch.setitem(sys.modules, "aetcd", None)
    for name in ("covey_mesh.io.etcd_client", "covey_mesh.io.etcd_leadership"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("without_client")
def test_without_the_extra_the_start_says_how_to_install_it() -> None:
    with pytest.raises(UserError, match="not installed") as refused:
        leadership_source(Configuration(etcd_endpoints=ENDPOINTS), "pool")
    assert "covey[etcd]" in refused.value.next_step


@pytest.mark.usefixtures("without_client")
def test_without_the_extra_the_doctor_says_so_for_each_endpoint() -> None:
    problems = etcd_problems(Configuration(etcd_endpoints=ENDPOINTS))
    assert list(problems) == list(ENDPOINTS)
    assert "covey[etcd]" in problems[ENDPOINTS[0]][1]


def test_the_doctor_warns_while_one_member_answers_and_fails_when_none_does() -> None:
    silent = ("no answer", "start it")
    assert [f.level for f in judge_etcd({"a:1": ("", ""), "b:1": silent})] == ["ok", "warn"]
    assert [f.level for f in judge_etcd({"a:1": silent, "b:1": silent})] == ["fail", "fail"]
    assert judge_etcd({"a:1": silent, "b:1": ("", "")})[0].fix == "start it"
