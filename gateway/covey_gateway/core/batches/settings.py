"""Every bound of files and batches, with its default and its reason."""

from __future__ import annotations

from dataclasses import dataclass, fields

from covey_mesh.core.limits import REQUEST_BODY_BYTES_MAX

MIB = 2**20
DAY_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Validated on construction; ValueError names the field."""

    # --- what is kept on this machine
    # One uploaded file; OpenAI's bound.
    file_bytes_max: int = 200 * MIB
    # Files and answers together. Above it uploads are refused and running batches wait.
    storage_bytes_max: int = 20 * 1024 * MIB
    # Left free on the disk by uploads, and by answers of running batches: what else the machine writes there (its
    # ballots first of all) must not fail, and what is deleted needs some room itself.
    disk_left_bytes: int = 256 * MIB
    disk_left_by_answers_bytes: int = 64 * MIB
    # Files kept at once, results of batches included.
    files_max: int = 1000
    # Files of batches, and the records of ended batches, are deleted after this time unless the client says otherwise.
    kept_s: float = 30 * DAY_S
    # Uploads under way at once; each holds an open connection and a little memory.
    uploads_max: int = 16

    # --- what one batch may be
    lines_max: int = 50_000
    line_bytes_max: int = REQUEST_BODY_BYTES_MAX + 64 * 1024
    body_bytes_max: int = REQUEST_BODY_BYTES_MAX
    custom_id_characters_max: int = 512
    # Mistakes told of one input file; reading stops there.
    errors_reported_max: int = 100
    # Batches not yet ended, of all users and of one.
    open_batches_max: int = 64
    open_batches_per_user_max: int = 32

    # --- how lines run
    # Lines in flight at once, whatever the pool's size.
    in_flight_max: int = 512
    # Bodies of lines in flight; one line is always let through.
    in_flight_bytes_max: int = 64 * MIB
    # The share of each machine's slots that batches may fill: the rest is free for people at any moment.
    slots_share: float = 0.9
    # Slots assumed of a machine that does not say how many requests it runs at once.
    slots_assumed: int = 4
    # Lines beyond the slots, so that the leader's queue has the next one for whichever machine is free first.
    ahead_share: float = 0.25
    ahead_min: int = 2
    # A line that fails on the pool's side (not busy: broken) is asked again this often before it counts as failed.
    line_attempts_max: int = 5
    retry_first_s: float = 0.5
    retry_max_s: float = 30.0
    # One answer, and all answers that are not yet on disk.
    answer_bytes_max: int = 16 * MIB
    answers_bytes_max: int = 256 * MIB
    # A model that no machine offers when its batch is validated may still be loading, or its machine restarting.
    model_wait_s: float = 30.0
    # Pause after the disk refused a write.
    full_retry_s: float = 5.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) <= 0:
                raise ValueError(f"{item.name} must be above 0")
        if self.slots_share > 1:
            raise ValueError("slots_share is at most 1")
