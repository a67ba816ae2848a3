"""The services of a box, built in the order in which they need each other: one module for each group, and what the group needs is named.

Ground, then outward, people, rooms, inward, and syncs, which read what the others write.
"""

from __future__ import annotations

from edgeserver.app.services.ground import Ground
from edgeserver.app.services.inward import In, inward
from edgeserver.app.services.outward import Out, outward
from edgeserver.app.services.people import Users, users
from edgeserver.app.services.rooms import Rooms, rooms
from edgeserver.app.services.syncs import Syncs, syncs

__all__ = ["Ground", "In", "Out", "Rooms", "Syncs", "Users", "inward", "outward", "rooms", "syncs", "users"]
