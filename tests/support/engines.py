"""The engines behind an agent, found by their command lines: to ask one directly, or to end it."""

from __future__ import annotations

from pathlib import Path

from covey.demo.agent_process import AgentProcess
from covey.demo.pool import descendants


def engine_processes(agent: AgentProcess) -> dict[int, list[str]]:
    """Process id -> command line of each `vllm serve` of this agent."""
    found: dict[int, list[str]] = {}
    for pid in descendants(agent.pid):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "serve" in words and "--uds" in words:
            found[pid] = words
    return found


def engine_sockets(agent: AgentProcess) -> dict[str, Path]:
    """Model -> the Unix socket of its engine."""
    return {
        words[words.index("--served-model-name") + 1]: Path(words[words.index("--uds") + 1])
        for words in engine_processes(agent).values()
    }
