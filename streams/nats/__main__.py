"""`python -m rookery.streams.nats`: the NATS edge."""

import sys

from rookery.streams.nats.edge import main

if __name__ == "__main__":
    sys.exit(main())
