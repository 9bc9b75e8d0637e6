"""Run the development server: `python -m dev.page`, as a program of the supervisor.

The environment names the ports and the state folder, which contains the token.
"""

import logging
import os
import socket
from pathlib import Path

from dev.page import TOKEN_FILE
from dev.page.programs import Programs
from dev.page.server import Server
from dev.page.site import Site
from dev.supervisor import MARK, Supervisor

SUPERVISOR_TIMEOUT_S = 10.0  # it may be frozen


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    socket.setdefaulttimeout(SUPERVISOR_TIMEOUT_S)
    state = Path(os.environ[MARK])
    programs = Programs(Supervisor(state))
    port = int(os.environ["PAGE_PORT"])
    site = Site(port, (state / TOKEN_FILE).read_text(), programs)
    server = Server(port, site, int(os.environ["GATEWAY_PORT"]))
    programs.resume()
    server.serve_forever()


if __name__ == "__main__":
    main()
