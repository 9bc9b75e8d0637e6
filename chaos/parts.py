"""All parts, in the order in which they are played."""

from chaos import money, processes, servers

PARTS = (*processes.PARTS, *money.PARTS, *servers.PARTS)
