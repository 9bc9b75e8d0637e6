"""Servers with the RabbitMQ of another Debian release (dev/chart/rabbitmq.sh)."""

import os
import pwd
import subprocess
from pathlib import Path

from dev.servers import RABBITMQ, Servers
from dev.supervisor import Program

USER = "rabbitmq"
START = Path(__file__).with_name("enter.sh")


class ServersOfAnotherDebian(Servers):
    """The broker runs in the root file system `root`, as this machine's RabbitMQ user."""

    root: Path

    def _inside(self, *command: str) -> list[str]:
        user = pwd.getpwnam(USER)
        root, state = str(self.root.resolve()), str(self.state.resolve())
        owner = f"{user.pw_uid}:{user.pw_gid}"
        return [
            *("unshare", "--mount", "bash", str(START)),
            *(root, state, owner),
            *command,
        ]

    def _rabbitmq(self) -> Program:
        command = self._inside(str(RABBITMQ / "rabbitmq-server"))
        return Program(
            name="rabbitmq",
            command=command,
            directory=self.state / "rabbitmq",
            env=self._rabbitmq_env(),
        )

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run rabbitmqctl in the same root file system; raises CalledProcessError."""
        done = subprocess.run(
            self._inside(str(RABBITMQ / "rabbitmqctl"), *arguments),
            env={**os.environ, **self._rabbitmq_env()},
            capture_output=True,
            text=True,
        )
        done.check_returncode()
        return done.stdout
