"""Orders that are paid once: durable steps, asks between agents, and what happens when things fail."""
