"""Every number that shapes a scheduling decision, in one frozen dataclass. Not here: what is done with them."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Validated on construction; ValueError names the field and its bounds."""

    policy: str = "predicted"
    """One of covey_scheduler.core.policies.POLICIES."""

    # --- prediction -------------------------------------------------------------------------------------------
    expected_output_tokens: int = 256
    """Output assumed of a request; its max_tokens counts only where smaller (clients ask for the whole context)."""
    batch_slowdown: float = 0.07
    """Slowing of one stream for each further request in the batch (fits 145, 99, 41 tokens/s at 1, 8, 32 streams)."""
    unmeasured_penalty: float = 0.25
    """Share added to the predicted work of a machine whose speed is only a prior: it may be wrong."""
    failure_penalty_s: float = 0.5
    """Added for one recent failure of a machine, doubled for each further one: a fast failer must not attract all."""
    failure_penalty_s_max: float = 30.0
    failure_memory_s: float = 30.0
    """A failure is forgotten after this time, and with the next success."""

    # --- choice -----------------------------------------------------------------------------------------------
    tie_tolerance: float = 0.05
    """Predictions closer than this share are equal machines, which take turns."""
    answer_weight: float = 0.03
    """Weight of a second of answers (this ask's own, and the delay that its prompt brings to each stream the machine
    runs) against a second before the first token."""
    start_ahead_s: float = 0.25
    """An ask is sent to a machine that has no more prompt work before it than this: enough to keep it busy until the
    next one comes (`recheck_s`, and a round trip), and little enough to change one's mind until then."""
    wait_gain: float = 1.0
    """A request stays queued for a busy machine that would finish it this many times sooner than the best free one."""
    wait_gain_s_min: float = 0.05
    """... and at least so many seconds sooner."""
    wait_patience: float = 2.0
    """... but once it has waited so many times what the best free machine would take, it takes that one."""

    # --- prefix cache -----------------------------------------------------------------------------------------
    tokens_per_block: int = 128
    """Tokens in one hashed block of the prompt (512 bytes, about 4 bytes a token)."""
    prefix_blocks_max: int = 2048
    """Blocks remembered for one model on one machine (a quarter million tokens)."""
    prefix_blocks_total_max: int = 500_000
    """Blocks remembered in all; the index fed longest ago goes first."""

    # --- queue ------------------------------------------------------------------------------------------------
    queue_length_max: int = 1024
    """Asks waiting for one model; the next is told to come back."""
    queues_length_max: int = 8192
    """Asks waiting for all models together."""
    queue_wait_s_max: float = 300.0
    """An ask without a deadline leaves the queue after this time."""
    ageing_s: float = 20.0
    """Waiting time that lifts an ask by one priority class: a batch job is late, never starved."""
    overtaking: float = 4.0
    """Of one user's asks that wait, shorter ones go first, until a longer one has waited this many times its own
    prompt's seconds: who needs long may wait long, in proportion, and nobody for ever."""
    recovery_patience_s: float = 3.0
    """Time an ask waits for machines that may be back in a moment (link lost, engine starting) when no other can."""
    drain_scan_max: int = 16
    """Queued asks looked at, in one step, that could start but choose to wait or fit no free machine."""
    drain_scan_lane_max: int = 8
    """... of which so many of one user and class, planned together: others' turn must come although these wait. Twice
    as many bring no less waiting on the traces of bench/routing."""
    recheck_s: float = 0.1
    """Queues are looked at this often even if nothing is heard (deadlines, expired reservations)."""
    deadline_horizon_s: float = 20.0
    """Within one user's line an ask without a deadline counts as due this long after its arrival, one with a deadline
    after half of it, if that is sooner."""
    users_max: int = 4096
    """Fairness counters kept; the user unseen for longest is forgotten."""
    output_token_weight: float = 2.0
    """Charge of an output token against a prompt token (the weights of Sheng et al., OSDI 2024)."""
    cached_token_weight: float = 0.1
    """Charge of a prompt token that the engine had in its prefix cache: nearly free, so nearly free of charge."""

    # --- room for others (room.py) ----------------------------------------------------------------------------
    headroom: float = 0.125
    """Share of each machine's places and KV cache that a user above a fair share leaves free (a batch of 7/8 loses
    1 to 3% of an engine's throughput); at least one place while others were heard lately."""
    crowd_ahead_s: float = 0.02
    """Such a user's next prompt is given to a machine when no more than this is left of those before it: a round trip
    and a turn of the loop, so that the machine is kept busy and another user's prompt waits for one prompt at most."""
    others_remembered_s: float = 600.0
    """A user heard this recently may come back at any moment."""

    # --- a machine kept from long prompts (keeping.py) --------------------------------------------------------
    returning_s: float = 1.0
    """A user is awaited for this long after its last request..."""
    returning_s_max: float = 5.0
    """... and one who comes in a rhythm for twice its mean pause; where that were longer, it is not awaited at all:
    a machine kept for it would stand idle for much more than what it has to do."""
    reading_s_min: float = 0.1
    """Who waits for more of an answer than this, with as many requests as ever at once, sends none meanwhile."""
    short_prompt_s: float = 0.05
    """A prompt that takes the kept machine no longer passes: nobody notices, with a step or two of the batch."""
    kept_share_max: float = 0.7
    """Of all machines' speed; where the best machine is more, it is not kept: too little were left."""
    kept_whole_share_max: float = 0.4
    """A machine that is no more is kept while the user waits for its answer, too, where that user's prompts are short:
    even one stream of the flood's would make them take twice as long."""
    batch_share: float = 0.5
    """Share of a machine's places that batch work may hold while other work was heard within pressing_remembered_s."""
    pressing_remembered_s: float = 60.0

    # --- grants (grants.py) -----------------------------------------------------------------------------------
    grant_share: float = 0.25
    """A machine that alone serves a model may have this share of its places and KV cache in use before others are
    granted without an ask; 0: none ever are."""
    grant_prompt_s: float = 0.25
    """Prompts that may wait at the machine, those granted included: what an ask may find before it (`start_ahead_s`).
    Beside other users it is `crowd_ahead_s`."""
    grant_valid_s: float = 0.25

    # --- deadlines (deadlines.py) -----------------------------------------------------------------------------
    deadline_trust: float = 0.7
    """An ask is hopeless if even this share of the predicted time is too long, speeds being measured..."""
    deadline_trust_prior: float = 0.35
    """... and this share where the speed is only a prior."""
    deadline_answer_share: float = 0.5
    """Of the expected answer; half as long is nothing unusual."""

    # --- the leader's own account -----------------------------------------------------------------------------
    reservation_s: float = 10.0
    """An assignment counts for this long if nothing is heard of it: twice the report interval of 1,000 machines."""
    settle_s: float = 0.15
    """A load report this much younger than an assignment is taken to include it."""
    reservations_max: int = 16_384
    known_requests_max: int = 2048
    """Requests remembered for duplicates and for correcting fairness charges."""
    models_max: int = 256
    """Models with fairness counters; the one unused for longest is forgotten."""
    collect_s: float = 0.3
    """A new leader listens this long for loads and queued asks before it assigns, less if all have reported."""
    candidates_recorded_max: int = 32
    """Machines in one decision record; the best first."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, str):
                continue
            if not 0 <= value < 1e9:
                raise ValueError(f"{item.name} must be from 0 to 1e9, not {value!r}")
            if item.name.endswith("_max") and value <= 0:
                raise ValueError(f"{item.name} must be above 0, not {value!r}")
        for name in (
            "headroom",
            "batch_share",
            "grant_share",
            "deadline_trust",
            "deadline_trust_prior",
            "deadline_answer_share",
        ):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is a share, at most 1")
        if self.tie_tolerance >= 1 or self.wait_gain < 1 or not self.ageing_s or not self.recheck_s:
            raise ValueError("tie_tolerance must be below 1, wait_gain at least 1, ageing_s and recheck_s above 0")
