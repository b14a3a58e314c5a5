"""What covey adds to an engine's processes, without an engine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points

PLUGIN = "covey_engine_plugin"


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    clean = {name: value for name, value in os.environ.items() if name != "COVEY_ENGINE_PARENT_PID"}
    return subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=60, check=False)


READ_SIGNAL = """
import ctypes
def signal_at_parents_death():
    found = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(found), 0, 0, 0)
    return found.value
import covey_engine_plugin
covey_engine_plugin.register()
print(signal_at_parents_death())
"""


def test_vllm_finds_the_plugin() -> None:
    found = {point.name: point.value for point in entry_points(group="vllm.general_plugins")}
    assert found["covey_engine_process"] == "covey_engine_plugin:register"


def test_a_users_own_engine_is_untouched() -> None:
    assert run(READ_SIGNAL).stdout == "0\n"


def test_our_engine_is_killed_with_its_parent() -> None:
    assert run(READ_SIGNAL, COVEY_ENGINE_PARENT_PID=str(os.getpid())).stdout == "9\n"


def test_nothing_heavy_is_imported() -> None:
    done = run("import sys, covey_engine_plugin; print({'torch', 'vllm', 'asyncio', 'grpc'} & set(sys.modules))")
    assert done.stdout == "set()\n"


def launch(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "covey_engine_plugin.launch", *arguments]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=60, check=False)


def test_the_launcher_becomes_the_command() -> None:
    code = "import os; print(os.getppid())"
    done = launch(sys.executable, "-c", code, COVEY_ENGINE_PARENT_PID=str(os.getpid()))
    assert done.stdout == f"{os.getpid()}\n"


def test_the_launcher_kills_itself_when_the_agent_is_gone_already() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait(20)
    assert launch("true", COVEY_ENGINE_PARENT_PID=str(gone.pid)).returncode == -9


def test_wrong_use_is_explained() -> None:
    assert launch(COVEY_ENGINE_PARENT_PID=str(os.getpid())).returncode == 64
    done = launch("/no/such/program", COVEY_ENGINE_PARENT_PID=str(os.getpid()))
    assert done.returncode == 127
    assert "cannot execute" in done.stderr


def test_the_whole_family_dies_with_the_agent() -> None:
    """agent -> launcher -> engine -> core: the agent is killed, the others follow."""
    core = "import time; print('up', flush=True); time.sleep(600)"
    engine = f"""
import subprocess, sys, os
import covey_engine_plugin
subprocess.run([sys.executable, "-c", "import covey_engine_plugin as p; p.register()\\n" + {core!r}])
"""
    agent = f"""
import os, subprocess, sys
env = os.environ | {{"COVEY_ENGINE_PARENT_PID": str(os.getpid())}}
subprocess.run([sys.executable, "-m", "{PLUGIN}.launch", sys.executable, "-c", {engine!r}], env=env)
"""
    with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
        assert process.stdout.read() == b"", "the pipe ends when the last of them is gone"
