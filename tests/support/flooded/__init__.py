"""A pool under a flood, in virtual time: a leader, gateways and machines whose event loops can be late.

The leader is covey_scheduler's Scheduler, each machine has covey_node's admission and meter and the model of an engine;
what lies between is modelled: every agent does one thing after the other, so a thousand requests at once make it late
for everything else. No I/O, no clock: the same arguments (and PYTHONHASHSEED, which orders sets) give the same times.
"""
