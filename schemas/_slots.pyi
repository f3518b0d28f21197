# Outbox slots of the journal in C.
from rookery.schemas.journal import Slot

def encode_slot(slot: Slot) -> bytes: ...
