"""The durable record of a state folder: claims, transitions, intents, events; and who shares the folder."""

from .journal import Journal
from .owners import Owner, Owners
from .row import Intent, Row

__all__ = ["Intent", "Journal", "Owner", "Owners", "Row"]
