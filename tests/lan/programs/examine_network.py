"""Runs the doctor's network probes on a host and prints each finding."""

from __future__ import annotations

import asyncio
import sys

from tests.lan.programs.lines import emit

from covey.doctor.network import check_addresses, check_multicast, check_names
from covey.doctor.probes import browse, probe_multicast
from covey_mesh.core.addresses import usable_addresses
from covey_mesh.core.names import NodeId
from covey_mesh.io.interfaces import read_interfaces


def main(node: str) -> None:
    found = read_interfaces()
    usable = usable_addresses(found)
    findings = check_addresses(found) + check_multicast(probe_multicast(usable))
    findings += check_names(NodeId(node), "own", [one.address for one in found], asyncio.run(browse(usable)))
    for finding in findings:
        emit("finding", **finding.as_json())
    emit("done")


if __name__ == "__main__":
    main(sys.argv[1])
