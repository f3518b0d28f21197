"""What runs: the deciding core, the engine, its logs (Kafka, memory), the client, pages."""
