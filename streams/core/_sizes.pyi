from collections.abc import Sequence

def fitting(
    messages: Sequence[tuple[bytes | None, bytes]], size: int, bytes_max: int, overhead: int, one_goes: bool
) -> tuple[int, int]: ...
