"""What is in deploy/ agrees with the program: settings, ports, commands, files. (No Docker engine is needed.)"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from covey.cli.group import cli
from covey.config import Configuration

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
AGENTS = [COMPOSE["services"][name] for name in ("first", "second")]
UNITS = sorted((DEPLOY / "systemd").rglob("*.service"))


def _default_ports() -> set[str]:
    defaults = {f.name: f.default for f in dataclasses.fields(Configuration)}
    return {str(defaults[name]).rpartition(":")[2] for name in ("http", "grpc", "link", "enrol", "data_port")}


@pytest.mark.parametrize("agent", AGENTS, ids=["first", "second"])
def test_every_variable_is_a_setting(agent: dict[str, Any]) -> None:
    settings = {f"COVEY_{f.name.upper()}" for f in dataclasses.fields(Configuration)}
    assert set(agent["environment"]) <= settings


@pytest.mark.parametrize("agent", AGENTS, ids=["first", "second"])
def test_every_command_exists(agent: dict[str, Any]) -> None:
    used = set(re.findall(r"\bcovey (?:--json )?([a-z]+)", agent["command"][0]))
    assert "up" in used
    assert used <= set(cli.commands)


def test_the_image_exposes_the_default_ports() -> None:
    exposed = re.search(r"^EXPOSE (.*)$", (DEPLOY / "docker/Dockerfile").read_text(), re.M)
    assert exposed is not None
    assert set(exposed[1].split()) == _default_ports()


def test_mounted_files_exist() -> None:
    mounts = [v for s in COMPOSE["services"].values() for v in s.get("volumes", []) if v.startswith("./")]
    assert mounts
    for mount in mounts:
        assert (DEPLOY / mount.split(":")[0]).exists()


def test_named_volumes_are_declared() -> None:
    used = {v.split(":")[0] for s in COMPOSE["services"].values() for v in s.get("volumes", []) if v[0] != "."}
    assert used == set(COMPOSE["volumes"])


def test_prometheus_in_compose_scrapes_what_the_standalone_configuration_does() -> None:
    standalone = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    composed = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"].replace("${COVEY_KEY}", "k"))
    assert composed["scrape_configs"][0]["static_configs"] == standalone["static_configs"]


def test_grafana_finds_the_dashboard_and_its_data_source() -> None:
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/covey.yml").read_text())["providers"][0]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert any(m.split(":")[1] == provider["options"]["path"] for m in mounts if m.startswith("./"))
    assert f'"uid": "{source["uid"]}"' in (DEPLOY / "grafana/dashboards/pool.json").read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.parent.name)
def test_units_stop_gently_and_start_the_agent(unit: Path) -> None:
    text = unit.read_text()
    assert re.search(r"^ExecStart=\S+/covey up$", text, re.M)
    assert "KillSignal=SIGTERM" in text
    grace_s = next(f.default for f in dataclasses.fields(Configuration) if f.name == "grace_s")
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert stop is not None
    assert int(stop[1]) > float(str(grace_s))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.parent.name)
def test_systemd_accepts_the_units(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / "covey.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.M))
    scope = "--user" if unit.parent.name == "user" else "--system"
    done = subprocess.run(
        ["systemd-analyze", "verify", scope, "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    complaints = [line for line in done.stderr.splitlines() if "covey.service" in line]
    assert not complaints
