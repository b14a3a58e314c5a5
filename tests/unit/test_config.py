"""Settings: strength of sources, refusal of unknown names, and that each one is documented."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from covey import setting as read
from covey.config import Configuration, fields, is_loopback
from covey.errors import ConfigurationError
from covey.places import default_runtime_dir, default_state_dir
from covey.settings import Loaded, load

ROOT = Path(__file__).resolve().parents[2]


def loaded(tmp_path: Path, flags: dict[str, object] | None = None, environ: dict[str, str] | None = None) -> Loaded:
    base = {"HOME": str(tmp_path), "COVEY_STATE_DIR": str(tmp_path / "state"), "COVEY_RUNTIME_DIR": "/tmp/covey-t"}
    return load(flags or {}, {**base, **(environ or {})}, system_file=tmp_path / "etc.toml")


def settings_in_state_dir(tmp_path: Path, content: str) -> None:
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "covey.toml").write_text(content)


def test_flags_beat_environment_beats_files_beats_defaults(tmp_path: Path) -> None:
    (tmp_path / "etc.toml").write_text('name = "etc"\nhttp = "127.0.0.1:1"\ngrpc = "127.0.0.1:2"\ngrace_s = 1')
    settings_in_state_dir(tmp_path, 'name = "state"\nhttp = "127.0.0.1:3"\ngrpc = "127.0.0.1:4"')
    environ = {"COVEY_NAME": "environment", "COVEY_HTTP": "127.0.0.1:5"}
    result = loaded(tmp_path, {"name": "flag"}, environ)
    found = result.configuration
    assert (found.name, found.http, found.grpc, found.grace_s) == ("flag", "127.0.0.1:5", "127.0.0.1:4", 1.0)
    assert found.engine == "vllm"
    assert [result.sources[name] for name in ("name", "http", "engine")] == ["flag", "environment", "default"]
    assert result.sources["grace_s"].endswith("etc.toml")


def test_a_named_file_replaces_the_usual_ones(tmp_path: Path) -> None:
    settings_in_state_dir(tmp_path, 'name = "state"')
    named = tmp_path / "other.toml"
    named.write_text("grace_s = 5")
    result = load({}, {"HOME": str(tmp_path), "COVEY_STATE_DIR": str(tmp_path / "state")}, file=named)
    assert result.sources["name"] == "default"
    assert result.configuration.grace_s == 5


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no settings file"):
        loaded(tmp_path, environ={"COVEY_CONFIG": str(tmp_path / "none.toml")})


def test_unknown_setting_in_a_file_suggests_the_nearest(tmp_path: Path) -> None:
    settings_in_state_dir(tmp_path, 'peer = ["a:1"]')
    with pytest.raises(ConfigurationError, match="unknown setting peer") as caught:
        loaded(tmp_path)
    assert caught.value.next_step == "did you mean peers?"


def test_unknown_environment_variable_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="COVEY_GRACES") as caught:
        loaded(tmp_path, environ={"COVEY_GRACES": "3"})
    assert caught.value.next_step == "did you mean COVEY_GRACE_S?"


def test_variables_that_kubernetes_injects_are_no_settings(tmp_path: Path) -> None:
    loaded(tmp_path, environ={"COVEY_SERVICE_HOST": "10.0.0.1", "COVEY_PORT_8080_TCP": "tcp://10.0.0.1:8080"})


def test_a_bad_value_names_setting_and_source(tmp_path: Path) -> None:
    settings_in_state_dir(tmp_path, "mdns = 3")
    with pytest.raises(ConfigurationError, match=r"mdns must be true or false, not 3 \(from .*covey.toml\)"):
        loaded(tmp_path)


def test_broken_toml_is_a_users_error(tmp_path: Path) -> None:
    settings_in_state_dir(tmp_path, "name = ")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        loaded(tmp_path)


@pytest.mark.parametrize("name", ["http", "grpc"])
def test_the_network_needs_a_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no API key"):
        loaded(tmp_path, {name: "0.0.0.0:8080"})
    settings_in_state_dir(tmp_path, '[keys]\nalice = "long-enough-to-be-a-key"')
    assert loaded(tmp_path, {name: "0.0.0.0:8080"}).configuration.keys == {"alice": "long-enough-to-be-a-key"}


def test_a_short_key_is_refused_and_not_repeated(tmp_path: Path) -> None:
    settings_in_state_dir(tmp_path, '[keys]\nalice = "hunter2"')
    with pytest.raises(ConfigurationError, match="key of alice") as caught:
        loaded(tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_runtime_dir_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long for Unix sockets"):
        loaded(tmp_path, {"runtime_dir": "/tmp/" + "x" * 100})


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (read.size_bytes, "512M", 512 * 2**20),
        (read.size_bytes, "1.5GiB", 3 * 2**29),
        (read.size_bytes, "4GB", 4 * 2**30),
        (read.size_bytes, 7, 7),
        (read.words, "a, b,,c", ("a", "b", "c")),
        (read.words, ["a", "b,c"], ("a", "b,c")),
        (read.arguments, '--flag {"a":1,"b":2}', ("--flag", '{"a":1,"b":2}')),
        (read.address, "[::1]:80", "[::1]:80"),
        (read.address, "covey.local:0", "covey.local:0"),
        (read.table, "alice=x=y,bob=z", {"alice": "x=y", "bob": "z"}),
        (read.switch, "off", False),
        (read.quantity, "0.5", 0.5),
        (read.count, "12", 12),
    ],
)
def test_values_are_read(reader: read.Reader, value: object, expected: object) -> None:
    assert reader(value) == expected


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (read.size_bytes, "lots"),
        (read.size_bytes, "5X"),
        (read.address, "8080"),
        (read.address, "host:99999"),
        (read.address, "::1:80"),
        (read.quantity, "inf"),
        (read.quantity, -1),
        (read.quantity, True),
        (read.count, "1.5"),
        (read.switch, "maybe"),
        (read.text, 5),
        (read.words, [1]),
        (read.table, "alice"),
        (read.one_of("a", "b"), "c"),
    ],
)
def test_values_are_refused(reader: read.Reader, value: object) -> None:
    with pytest.raises(ValueError, match=r"must"):
        reader(value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False), ("10.0.0.1:1", False)],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_directories_follow_xdg() -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/covey")
    assert default_state_dir({"HOME": "/home/a"}) == Path("/home/a/.local/state/covey")
    assert default_state_dir({"STATE_DIRECTORY": "/var/lib/covey"}) == Path("/var/lib/covey")
    one, other = (default_runtime_dir({}, Path(p)) for p in ("/a", "/b"))
    assert one != other


def test_every_setting_is_described_and_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for name, field in fields().items():
        assert field.metadata["describe"], name
        assert f"`{name}`" in text, f"docs/configuration.md does not mention {name}"
        assert field.metadata["describe"] in text, f"docs/configuration.md has another description of {name}"


def test_the_documentation_invents_no_setting() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", text, flags=re.MULTILINE))
    assert documented == set(fields())


def test_configuration_is_frozen() -> None:
    configuration = Configuration()
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration.name = "other"  # type: ignore[misc]
