"""Accounts and passwords."""

from __future__ import annotations

import pytest

from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.store import dehydrated_devices
from edgeserver.users.accounts import DeviceWish
from edgeserver.users.passwords import Passwords
from tests.users.places import Place

ALICE = "@alice:test"


async def test_a_person_is_created_once_and_the_name_is_put_in_lower_case(place: Place) -> None:
    user_id, session = await place.accounts.create_person("Alice", "correct horse", admin=True, displayname="Alice A.")
    assert (user_id, session) == (ALICE, None)
    assert await place.profiles.get(ALICE) == {"displayname": "Alice A."}
    with pytest.raises(errors.UserInUse):
        await place.accounts.create_person("alice", "another one")
    (account,) = await place.accounts.people()
    assert account.admin


@pytest.mark.parametrize("name", ["", "a b", "ä", "a:b", "x" * 300, "a\0"])
async def test_names_outside_the_grammar_are_refused(place: Place, name: str) -> None:
    with pytest.raises(errors.InvalidUsername):
        await place.accounts.create_person(name, "correct horse")


async def test_passwords_that_are_too_short_or_too_long_are_weak(place: Place) -> None:
    for password in ("short", "x" * 513):
        with pytest.raises(errors.WeakPassword):
            await place.accounts.create_person("alice", password)


async def test_a_password_is_checked_and_an_unknown_person_has_none(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    assert await place.accounts.check_password(ALICE, "correct horse")
    assert not await place.accounts.check_password(ALICE, "battery staple")
    assert not await place.accounts.check_password("@bob:test", "nobody's password")


async def test_a_new_password_ends_all_sessions_but_the_one_named(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    kept = await place.accounts.log_in(ALICE, DeviceWish("KEPT"))
    gone = await place.accounts.log_in(ALICE, DeviceWish("GONE"))
    await place.accounts.set_password(ALICE, "battery staple", but="KEPT")
    await place.tokens.requester(kept.tokens.access_token)
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(gone.tokens.access_token)
    assert await place.accounts.check_password(ALICE, "battery staple")


async def test_a_dehydrated_device_goes_with_its_account_whoever_deletes_it(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse", device=DeviceWish("ASLEEP"))
    await place.db.write(lambda tx: dehydrated_devices.put(tx, ALICE, "ASLEEP", {"algorithm": "x"}))
    await place.accounts.set_password(ALICE, "another one", log_out=False)
    assert await place.db.read(lambda tx: dehydrated_devices.device_id(tx, ALICE)) == "ASLEEP"
    await place.accounts.deactivate(ALICE)
    assert await place.db.read(lambda tx: dehydrated_devices.device_id(tx, ALICE)) is None


async def test_a_deactivated_account_leaves_nothing_but_its_name(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse", displayname="Alice")
    session = await place.accounts.log_in(ALICE, DeviceWish("PHONE"))
    await place.account_data.put(ALICE, "", "m.x", {"a": 1})
    await place.accounts.deactivate(ALICE)
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(session.tokens.access_token)
    with pytest.raises(errors.UserDeactivated):
        await place.accounts.log_in(ALICE, DeviceWish())
    with pytest.raises(errors.NotFound):
        await place.profiles.get(ALICE)
    with pytest.raises(errors.UserInUse):
        await place.accounts.create_person("alice", "correct horse")
    with pytest.raises(errors.NotFound):
        await place.accounts.set_password(ALICE, "correct horse")
    assert not await place.accounts.check_password(ALICE, "correct horse")
    assert place.heard == [("deleted", ALICE, ["PHONE"]), ("deactivated", ALICE)]


async def test_device_ids_and_names_are_bounded(place: Place) -> None:
    await place.accounts.create_person("alice", "correct horse")
    for wish in (DeviceWish(""), DeviceWish("x" * 256), DeviceWish("D", "x" * 257)):
        with pytest.raises(MatrixError):
            await place.accounts.log_in(ALICE, wish)


async def test_the_password_hash_is_argon2id_and_works_in_a_thread() -> None:
    passwords = Passwords()
    hashed = await passwords.hash("pässword")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(hashed, "pässword")
    assert not await passwords.verify(hashed, "password")
