"""Whether a journal's position fits the inboxes as they are now: offsets of another topic would mean other messages."""

from collections.abc import Sequence
from dataclasses import replace

from rookery.schemas.journal import NO_INCARNATION, LanePosition, Position
from rookery.schemas.partition_errors import WrongPosition


def fit(
    number: int,
    position: Position | None,
    bounds: Sequence[tuple[int, int]],
    incarnations: Sequence[bytes],
    partitions: int,
    ring: int,
    afresh: bool,
) -> Position:
    """The position to start from, with the inboxes' incarnations in it. Raises WrongPosition.

    `bounds` are log start and end of the partition in each inbox, `incarnations` their topic ids, both by lane. With
    `afresh` an operator has said that what does not fit is void: an inbox that was made again is read from its start,
    and one that lost its end from there. Sequences of sources stay known: they count on in the new inbox, too.
    """
    if position is None:
        # The last of what an inbox deleted before it was ever read stays open, until somebody tells of the loss.
        lanes = [LanePosition.fresh(max(0, start - 1), partitions) for start, _ in bounds]
        position = Position(lanes, next_slot=1, next_sequence=1, sent_through=0, ring=ring, partitions=partitions)
    if position.partitions != partitions:
        raise WrongPosition(number, f"it was written for {position.partitions} partitions, there are {partitions}")
    lanes = []
    for lane, ((start, end), incarnation, found) in enumerate(zip(bounds, incarnations, position.lanes, strict=True)):
        known = found.incarnation
        if NO_INCARNATION not in {known, incarnation} and known != incarnation:
            if not afresh:
                raise WrongPosition(number, f"the inbox of lane {lane} was deleted and made again since")
            found = LanePosition(start, b"", found.seen)  # noqa: PLW2901 - the same lane, mended
        if found.prefix > end:
            if not afresh:
                raise WrongPosition(number, f"lane {lane} is done up to {found.prefix}, but its inbox ends at {end}")
            found = LanePosition(end, b"", found.seen)  # noqa: PLW2901
        lanes.append(replace(found, incarnation=incarnation if incarnation != NO_INCARNATION else known))
    return replace(position, lanes=lanes)
