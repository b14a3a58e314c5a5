"""Every check, all at once: who waits for the network does not hold up the others. Findings are told as they come.

Not here: any judgement (machine.py, network.py, links.py, pool.py) and any reading of the system (machine_facts.py,
probes.py); how it looks (screen.py).
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from covey.cli.agent_client import AgentClient
from covey.config import VLLM, Configuration
from covey.doctor import interface, links, machine, network, pool, probes
from covey.doctor.agent_side import SURVEY_PATH
from covey.doctor.etcd import check_etcd
from covey.doctor.finding import Finding, fail, ok, warn
from covey.doctor.links import Machines
from covey.doctor.machine_facts import read_machine
from covey.doctor.pair import BadReportError, Heard, Survey, survey_from_json
from covey.doctor.survey import SURVEY_TIMEOUT_S
from covey.errors import UserError
from covey.reach import reachable
from covey.running import running_agent
from covey.setting import split_address
from covey_mesh.core.addresses import usable_addresses
from covey_mesh.core.names import NodeId
from covey_mesh.io import identity
from covey_mesh.io.identity import Identity, IdentityError, NotInitialisedError
from covey_mesh.io.interfaces import read_interfaces
from covey_mesh.io.multicast import on_link
from covey_mesh.io.path_probe import Reach, probe_tcp
from covey_mesh.io.state_files import StateFileError

ELSEWHERE_MAX = 4

LEADER_WAIT_S = 5.0
"""As long as an election may take after a fault has healed."""

LEADER_ASK_INTERVAL_S = 0.25

Tell = Callable[[str, list[Finding]], None]
"""(name of the step that is done, what it found)."""

Check = Callable[[], Awaitable[list[Finding]]]


class Examination:
    """One look at this machine, its network and its pool; `run` may be called once."""

    def __init__(self, configuration: Configuration, thorough: bool = False) -> None:
        self._configuration = configuration
        self._thorough = thorough
        self._interfaces = read_interfaces()
        self._usable = usable_addresses(self._interfaces)
        host, _ = split_address(configuration.link)
        self._interface_findings = interface.check_interface(
            host, configuration.advertise, self._interfaces, probes.surroundings()
        )
        self._member, self._identity_findings = read_identity(configuration)
        self._steps: dict[str, Check] = {
            "this machine": self._machine,
            "identity": self._identity,
            "addresses": self._addresses,
            "multicast": self._multicast,
            "names": self._names,
            "links": self._links,
            "pool": self._pool,
            "pool name": self._pool_name,
            "peers": self._peers,
            "clock": self._clock,
            "etcd": self._etcd,
        }
        self.survey = Survey()

    @property
    def steps(self) -> tuple[str, ...]:
        """In the order in which a person should read them."""
        return tuple(self._steps)

    async def run(self, tell: Tell) -> list[Finding]:
        """All findings in the order of the steps; `tell` is called as each step ends. Some seconds."""
        self._state = asyncio.ensure_future(asyncio.to_thread(self._read_state))
        self._surveyed = asyncio.ensure_future(self._take_survey())

        async def take(name: str, check: Check) -> list[Finding]:
            found = await check()
            tell(name, found)
            return found

        found = await asyncio.gather(*(take(name, check) for name, check in self._steps.items()))
        return [finding for findings in found for finding in findings]

    # --- what several checks need, read once ------------------------------------------------------------------------

    def _read_state(self) -> dict[str, Any] | None:
        """What the running agent knows; None without one."""
        return self._ask_agent(lambda agent: agent.get("/covey/v1/pool"))

    async def _settled_state(self) -> dict[str, Any] | None:
        """An agent that has just started has no leader for a moment: that is no finding."""
        state = await self._state
        until_s = time.monotonic() + LEADER_WAIT_S
        while state is not None and not state["leader_node_id"] and time.monotonic() < until_s:
            await asyncio.sleep(LEADER_ASK_INTERVAL_S)
            state = await asyncio.to_thread(self._read_state) or state
        return state

    async def _take_survey(self) -> Survey:
        if await self._state is None:
            return self.survey
        timeout_s = SURVEY_TIMEOUT_S + 5.0
        ask = functools.partial(self._ask_agent, lambda agent: agent.post(SURVEY_PATH, {}, timeout_s))
        try:
            found = await asyncio.to_thread(ask)
            self.survey = self.survey if found is None else survey_from_json(found)
        except BadReportError:
            pass  # an agent of another version: everything else is still worth saying
        return self.survey

    def _ask_agent(self, ask: Callable[[AgentClient], Any]) -> dict[str, Any] | None:
        state_dir = self._configuration.state_dir
        if running_agent(state_dir) is None:
            return None
        try:
            found: dict[str, Any] = ask(AgentClient.local(state_dir))
            return found
        except UserError:
            return None

    async def _machines(self) -> Machines:
        state = await self._state
        if state is None:
            return Machines(NodeId(""))
        facts = [member["facts"] for member in state["members"]]
        names = {NodeId(one["node_id"]): one["name"] for one in facts}
        return Machines(NodeId(state["node_id"]), names, excused=bool(self._interface_findings))

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def _machine(self) -> list[Finding]:
        configuration = self._configuration
        start_engine = self._thorough and configuration.engine == VLLM
        facts = await asyncio.to_thread(read_machine, configuration.state_dir, start_engine)
        return machine.check_machine(facts, configuration.engine)

    async def _identity(self) -> list[Finding]:
        found = list(self._identity_findings)
        if self._member is not None and await self._state is None:
            found.append(pool.no_agent())
        return found

    async def _addresses(self) -> list[Finding]:
        configuration = self._configuration
        listens = {"http": configuration.http, "grpc": configuration.grpc, "link": configuration.link}
        ports = await asyncio.to_thread(probes.probe_ports, listens)
        return [
            *network.check_addresses(self._interfaces),
            *self._interface_findings,
            *network.check_ports(ports, await self._state is not None),
        ]

    async def _multicast(self) -> list[Finding]:
        if not self._configuration.mdns:
            return []
        found = await asyncio.to_thread(probes.probe_multicast, self._usable)
        heard = (await self._surveyed).heard
        neighbours = await self._neighbours(heard)
        findings = network.check_multicast(found, neighbours)
        state = await self._state
        if state is not None and len(state["members"]) == 1:
            findings.append(network.check_alone(neighbours))
        return findings

    async def _neighbours(self, heard: tuple[Heard, ...]) -> network.Neighbours:
        state = await self._state
        if state is None:
            return network.Neighbours(heard, self._configured_link(), self._elsewhere([]))
        own = [one for one in state["members"] if one["facts"]["node_id"] == state["node_id"]]
        away = [one for one in state["members"] if not one["reachable"]]
        routed = [one for one in state["members"] if one["reachable"] and one not in own and not self._is_near(one)]
        return network.Neighbours(
            heard,
            next((address for one in own for address in one["facts"]["link_addresses"]), self._configured_link()),
            self._elsewhere([address for one in away for address in one["facts"]["link_addresses"]]),
            tuple((one["facts"]["name"], next(iter(one["facts"]["link_addresses"]), "HOST:PORT")) for one in routed),
            pool_known=True,
        )

    def _configured_link(self) -> str:
        configuration = self._configuration
        _, port = split_address(configuration.link)
        return next(iter(reachable(configuration.link, port, configuration.advertise, self._interfaces)), "")

    def _elsewhere(self, away: list[str]) -> tuple[str, ...]:
        """Addresses on other networks of machines that are not reached now, as far as they were ever heard of."""
        known = [*away, *(self._member.peer_hints if self._member is not None else ())]
        return tuple(dict.fromkeys(one for one in known if not self._is_on_network(one)))[:ELSEWHERE_MAX]

    def _is_near(self, member: dict[str, Any]) -> bool:
        return any(self._is_on_network(address) for address in member["facts"]["link_addresses"])

    def _is_on_network(self, address: str) -> bool:
        return any(on_link(_host(address), interface) for interface in self._usable)

    async def _names(self) -> list[Finding]:
        if not self._configuration.mdns:
            return []
        try:
            seen = await probes.browse(self._usable)
        except OSError as error:
            fix = "end or configure the program that holds UDP port 5353: `ss -ulnp 'sport = :5353'`"
            return [warn("mDNS", f"cannot listen to announcements: {error}", fix)]
        own = self._member.node_id if self._member is not None else None
        hosts = [one.address for one in self._interfaces]
        return network.check_names(own, self._configuration.name, hosts, [*seen, *await self._named_by_links(own)])

    async def _named_by_links(self, own: NodeId | None) -> Iterable[network.Seen]:
        """Machines that mDNS does not show may have a name twice, too."""
        machines = await self._machines()
        return [network.Seen("", one, name, ()) for one, name in machines.names.items() if one != own]

    async def _links(self) -> list[Finding]:
        return links.check_links(await self._surveyed, await self._machines())

    async def _pool(self) -> list[Finding]:
        survey, state = await self._surveyed, await self._settled_state()
        if state is None:
            return []
        why = links.why_unreachable(survey, NodeId(state["node_id"]))
        return pool.check_pool(state, why, links.swallowed(survey))

    async def _pool_name(self) -> list[Finding]:
        state = await self._state
        if self._member is None or state is None:
            return []
        gateways = [_host(address) for one in state["members"] for address in one["facts"]["gateway_addresses"]]
        host = f"{self._member.pool_name}.local"
        return [network.check_pool_name(host, await probes.resolve(host), gateways)] if gateways else []

    async def _peers(self) -> list[Finding]:
        """Addresses that a person has configured and that do not answer."""
        found = await asyncio.gather(*(probe_tcp(address) for address in self._configuration.peers))
        return [network.silent_peer(one) for one in found if one.reach is not Reach.WHOLE]

    async def _clock(self) -> list[Finding]:
        synchronized = await asyncio.to_thread(probes.clock_synchronized)
        skews_s = links.skews_s(await self._surveyed, await self._machines())
        return network.check_clock(time.time(), synchronized, skews_s)

    async def _etcd(self) -> list[Finding]:
        if not self._configuration.etcd_endpoints:
            return []
        pool_id = self._member.pool_id if self._member is not None else None
        return await asyncio.to_thread(check_etcd, self._configuration, pool_id)


def read_identity(configuration: Configuration) -> tuple[Identity | None, list[Finding]]:
    """This machine's membership, and what to say of it."""
    try:
        member = identity.load(configuration.state_dir)
    except NotInitialisedError:
        return None, [pool.no_pool("this machine is in no pool yet")]
    except IdentityError as error:
        return None, [pool.no_pool(str(error))]
    except StateFileError as error:
        return None, [fail("identity", str(error), "mend that file's owner and mode, or restore it from a backup")]
    return member, [ok("identity", f"machine {member.node_id[:8]} of pool {member.pool_name}")]


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
