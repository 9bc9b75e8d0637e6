"""All parts, in the order in which they are played."""

from chaos import connections, failover, money, processes, retries, servers

# The last two have the services reach their servers through proxies: they are restarted once.
PARTS = (
    *processes.PARTS,
    *money.PARTS,
    *servers.PARTS,
    *retries.PARTS,
    *connections.PARTS,
    *failover.PARTS,
)
