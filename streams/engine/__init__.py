"""What runs turns: the engine between `streams/core` (decides) and a `Log` (does I/O). Asyncio, no Faust, no Kafka."""
