"""The Kafka driver: the `Log` port over aiokafka, and the Faust application around the engine."""
