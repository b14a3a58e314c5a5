"""docs/benchmarks/failover.md: what was measured, with the command, the machine and the date.

Each part of the page stands between its own pair of marks and is written by its own command, so that one can be renewed
without the others.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.lan.chaos import report
from tests.lan.chaos.stage import Result

ROOT = Path(__file__).resolve().parents[3]
_HEAD = """# Failover: what clients see when machines die

Measured with real agents (`covey up`, mDNS, mutual TLS, simulated engines where no others are named) on hosts that are
network namespaces of one machine, behind a software switch, under load that never pauses.
"""
_PARTS = ("figures", "chaos", "chaos-vllm")


def write_part(path: Path, part: str, content: str) -> None:
    """Replace one part of the page, or make the page."""
    assert part in _PARTS
    page = path.read_text() if path.exists() else _HEAD
    missing = [name for name in _PARTS if f"<!-- {name} -->\n" not in page]
    page += "".join(f"\n<!-- {name} -->\n<!-- end {name} -->\n" for name in missing)
    begin, end = f"<!-- {part} -->\n", f"<!-- end {part} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pattern.sub(lambda _: begin + content + end, page))


def write_chaos(path: Path, engine: str, results: Sequence[Result], arguments: Sequence[str]) -> None:
    """The table of the scenarios with these engines."""
    part, title, meaning = {
        "simulated": ("chaos", "Scenarios", _MEANING),
        "vllm": ("chaos-vllm", "Scenarios with real vLLM", _MEANING_OF_REAL_TEXTS),
    }[engine]
    seeds = sorted({result.seed for result in results})
    kept = [word for word in arguments if word != str(path) and not word.startswith("--report")]
    violations = report.violations(results)
    errors = report.clean_errors(results)
    parted = report.parted(results)
    parts = [
        f"\n## {title}\n",
        provenance(f"python -m tests.lan.chaos {' '.join(kept)}".strip(), f"seeds {', '.join(map(str, seeds))}"),
        meaning,
        report.table(results) + "\n",
        f"Clean errors:\n\n```\n{errors}\n```\n" if errors else "",
        f"Texts of real models:\n\n```\n{parted}\n```\n" if parted else "",
        f"Violations:\n\n```\n{violations}\n```\n" if violations else "No violations.\n",
        "What each scenario is:\n",
        "\n".join(f"- `{name}`: {what}" for name, what in {r.scenario.name: r.scenario.what for r in results}.items())
        + "\n",
    ]
    write_part(path, part, "\n".join(part for part in parts if part))


def provenance(command: str, more: str) -> str:
    """Command, machine, date, commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores ({_cpu()}), {memory_gib:.0f} GiB, Linux {platform.release()}"
    return (
        f"`{command}`, {more}; {machine}, Python {platform.python_version()}; {today}, commit {commit or 'unknown'}.\n"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


_MEANING = """\
Every request is one of: complete; retried (answered by a later attempt, the client saw nothing); continued (its machine
died after the first byte, another went on); refused (an HTTP error that says why, only where no machine that
has the model could be reached); clean error (one error event ended the stream); gateway gone (the client's own gateway
was killed: nobody is left to answer). Texts are compared with those of the undisturbed pool. A violation is anything
else: text torn, duplicated or lost, a request that hangs, a refusal although a machine could have served, a pool that
does not become whole again, a ballot that fell, an internal error in a log. Pauses are between two tokens of a stream;
a gateway that is cut off from every machine that has the model waits until it is back, and that wait is among them;
leaderless times are of machines that ran all the while, as is the agents' loop lag (the bucket of
`covey_event_loop_lag_seconds` that the worst of them fell into); timer lag is how late the loaded machine woke the
observer. Clients speak HTTP and gRPC at every gateway and are judged alike: over gRPC an error event is a status with
the request's id.
"""
_MEANING_OF_REAL_TEXTS = """\
As above, but two machines have a vLLM with the demo model and the others none. A real model may part from its
undisturbed text at temperature 0 where two tokens are as good as equally likely: such a text is given to an engine to
read, and each of its tokens must be one that the model would write there.
"""
