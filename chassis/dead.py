"""The command `python -m chassis.dead`: another name of `python -m chassis.dead_letters`."""

from chassis.dead_letters import main

if __name__ == "__main__":
    main()
