"""The doctor's share in a running agent: answers other machines' doctors, and surveys the links for this machine's.

One line in the composition root makes it. Not here: what is answered (peer_probes.py), asked (survey.py) and judged
(links.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from covey.doctor.measuring import Measurer, Questions
from covey.doctor.pair import survey_to_json
from covey.doctor.peer_probes import Interfaces, PeerProbes
from covey.doctor.survey import Surveyor
from covey_gateway.core.pages import Access, PlainRequest, PlainResponse, Route, Routes
from covey_mesh.io.identity import Identity

SURVEY_PATH = "/covey/v1/survey"


class AgentDoctor:
    """`interfaces`: the addresses on which this agent uses mDNS, none without it. Clocks as for Measurer."""

    def __init__(
        self,
        mesh: Questions,
        identity: Identity,
        interfaces: Interfaces,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
    ) -> None:
        measurer = Measurer(mesh, identity, clock, unix_clock)
        self._probes = PeerProbes(mesh, measurer, interfaces, clock, unix_clock)
        self._surveyor = Surveyor(mesh, measurer, interfaces)

    def routes(self) -> Routes:
        """For this machine alone: a survey makes traffic on every link."""
        return Routes({("POST", SURVEY_PATH): Route(self._survey, Access.LOCAL)})

    async def _survey(self, request: PlainRequest) -> PlainResponse:
        return PlainResponse(body=json.dumps(survey_to_json(await self._surveyor.survey())).encode())

    async def stop(self) -> None:
        """End what is under way."""
        await self._surveyor.stop()
        await self._probes.stop()
