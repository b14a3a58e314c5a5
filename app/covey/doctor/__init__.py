"""What is wrong on this machine and its network, and what to do about it.

network.py and machine.py judge (pure functions over what was read), probes.py and machine_facts.py read.
"""
