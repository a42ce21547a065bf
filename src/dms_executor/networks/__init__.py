"""Networks of the kind `user`: what every engine that gives one needs, and no engine of its own.

`programs` finds pasta or slirp4netns and says how it is called, `ports` chooses host ports that nobody else gets,
`resolving` writes what a job is told about names.
"""

from __future__ import annotations

from .ports import Reservation, reserve
from .programs import ADDRESS, FORWARDER, GATEWAY, INTERFACE, Program, answers_remapped, find_program
from .resolving import hosts_file, resolv_conf

__all__ = [
    "ADDRESS",
    "FORWARDER",
    "GATEWAY",
    "INTERFACE",
    "Program",
    "Reservation",
    "answers_remapped",
    "find_program",
    "hosts_file",
    "reserve",
    "resolv_conf",
]
