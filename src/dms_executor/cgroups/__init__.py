"""The host's control groups, as every engine uses them that keeps processes of this host."""

from .hierarchies import Cgroups, Hierarchy, Source, detect, limits_swap, make_shims_group, usable_controllers

__all__ = [
    "Cgroups",
    "Hierarchy",
    "Source",
    "detect",
    "limits_swap",
    "make_shims_group",
    "usable_controllers",
]
