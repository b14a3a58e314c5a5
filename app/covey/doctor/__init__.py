"""What is wrong on this machine, on its network and between the machines of its pool, and what to do about it.

Judging is pure: machine.py, network.py, interface.py, pool.py and links.py (with blame.py) turn what was read into
findings (finding.py). Reading: machine_facts.py and probes.py here; between machines survey.py asks for the pairs that
measuring.py measures, rendezvous.py tries multicast, peer_probes.py answers other machines' doctors; agent_side.py puts
those into the running agent. examination.py runs every check at once, report.py and screen.py print.
"""
