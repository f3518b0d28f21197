"""The NATS edge: a process beside the workers that carries messages between NATS and an application's topics."""
