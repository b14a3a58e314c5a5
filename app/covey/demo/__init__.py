"""A real pool of two agents on this machine: `python -m covey.demo run` stays, `python -m covey.demo prove` proves.

Everything here goes through the covey command and the agents' endpoints, as a user would.
"""
