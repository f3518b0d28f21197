"""What decides: dedup, mailboxes, run queue, progress, journal folding, outbox. No Faust, Kafka, clock or I/O."""
