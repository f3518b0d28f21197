"""Every departure from New York in 2013, counted by the planes, the carriers and the airports themselves."""
