"""What decides: dedup, mailboxes, run queue, progress, journal folding, outbox. Pure: no Faust, no Kafka, no clock, no I/O."""
