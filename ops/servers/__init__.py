"""A real Kafka and a real Redis for runs and tests on one machine.

Servers that are configured or already up are borrowed and left alone; what is missing is started as local child
processes, which are gone when the ``with`` block ends, however it ends::

    with servers.ensure(kafka=True, progress=print) as s:
        run_the_job(s.broker)

``python -m rookery.ops.servers up|down|status|run`` is the same from a shell. Local servers are for development:
one node, loopback only, no password, and data under ``.rookery/`` that is removed with them.
"""

from rookery.ops.servers.lifecycle import HOME, Servers, ensure
from rookery.ops.servers.process import ServersError

__all__ = ["HOME", "Servers", "ServersError", "ensure"]
