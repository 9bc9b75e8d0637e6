"""All parts, in the order in which they are played."""

from tests.chaos import connections, failover, money, processes, retries, servers

# The last two need proxies between services and servers: the services are restarted once.
PARTS = (
    *processes.PARTS,
    *money.PARTS,
    *servers.PARTS,
    *retries.PARTS,
    *connections.PARTS,
    *failover.PARTS,
)
