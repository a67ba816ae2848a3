"""Everything that belongs to accounts, on a fresh store, with a clock that tests turn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgeserver.store.database import Database, Transaction, open_database
from edgeserver.users.account_data import AccountData
from edgeserver.users.accounts import Accounts
from edgeserver.users.devices import Devices
from edgeserver.users.filters import Filters
from edgeserver.users.openid import OpenIdTokens
from edgeserver.users.passwords import Passwords
from edgeserver.users.presence import Presence
from edgeserver.users.profiles import Profiles
from edgeserver.users.pushers import Pushers
from edgeserver.users.tokens import Tokens
from edgeserver.wakeups import Wakeups


@dataclass
class Clock:
    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class Place:
    db: Database
    clock: Clock
    wakeups: Wakeups
    tokens: Tokens
    devices: Devices
    accounts: Accounts
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    pushers: Pushers
    presence: Presence
    openid: OpenIdTokens
    heard: list[tuple[object, ...]] = field(default_factory=list)


def weak_passwords() -> Passwords:
    """Argon2id at its cheapest, in the caller."""
    return Passwords(passes=1, memory=8192, inline=True)


@asynccontextmanager
async def open_place(folder: Path, server_name: str = "test") -> AsyncIterator[Place]:
    heard: list[tuple[object, ...]] = []

    def hears(what: str):
        def hook(tx: Transaction, user_id: str, device_ids: object) -> None:
            heard.append((what, user_id, device_ids))

        return hook

    async def on_deactivate(user_id: str) -> None:
        heard.append(("deactivated", user_id))

    async def on_profile_change(user_id: str) -> None:
        heard.append(("profile", user_id))

    async with open_database(folder / "edge.db", inline=True) as db:
        clock, wakeups = Clock(), Wakeups()
        tokens = Tokens(db, clock)
        devices = Devices(db, tokens, on_delete=[hears("deleted")], on_rename=[hears("renamed")])
        accounts = Accounts(
            db, server_name, clock,
            tokens=tokens, devices=devices, passwords=weak_passwords(), on_deactivate=on_deactivate,
        )  # fmt: skip
        yield Place(
            db, clock, wakeups, tokens, devices, accounts,
            Profiles(db, server_name, on_change=on_profile_change),
            AccountData(db, wakeups), Filters(db), Pushers(db, clock),
            Presence(db, wakeups, server_name, lambda: 1, enabled=True), OpenIdTokens(db, server_name, clock), heard,
        )  # fmt: skip
