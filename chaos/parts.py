"""All parts, in the order in which they are played."""

from chaos import money, processes, retries, servers

PARTS = (*processes.PARTS, *money.PARTS, *servers.PARTS, *retries.PARTS)
