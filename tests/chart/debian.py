"""Servers whose RabbitMQ is that of another Debian, in its root file system (dev/chart/rabbitmq.sh)."""

import os
import pwd
import subprocess
from pathlib import Path

from dev.servers import RABBITMQ, Servers
from dev.supervisor import Program

USER = "rabbitmq"
START = Path(__file__).with_name("enter.sh")


class OfAnotherDebian(Servers):
    """The broker runs in `root`, as the user and group of this machine's RabbitMQ."""

    root: Path

    def _inside(self, *command: str) -> list[str]:
        user = pwd.getpwnam(USER)
        place = [
            str(self.root.resolve()),
            str(self.state.resolve()),
            f"{user.pw_uid}:{user.pw_gid}",
        ]
        return ["unshare", "--mount", "bash", str(START), *place, *command]

    def _rabbitmq(self) -> Program:
        command = self._inside(str(RABBITMQ / "rabbitmq-server"))
        return Program(
            "rabbitmq", command, self.state / "rabbitmq", None, self._rabbitmq_env()
        )

    def rabbitmqctl(self, *arguments: str) -> str:
        """Runs rabbitmqctl in the same root file system; raises CalledProcessError."""
        done = subprocess.run(
            self._inside(str(RABBITMQ / "rabbitmqctl"), *arguments),
            env={**os.environ, **self._rabbitmq_env()},
            capture_output=True,
            text=True,
        )
        done.check_returncode()
        return done.stdout
