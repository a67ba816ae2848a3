"""Access and refresh tokens."""

from __future__ import annotations

import pytest

from edgeserver.matrix import errors
from edgeserver.users.accounts import DeviceWish, Session
from tests.users.places import Place

ALICE = "@alice:test"


async def log_in(place: Place, *, refreshable: bool = False, device_id: str | None = None) -> Session:
    if await place.accounts.account(ALICE) is None:
        await place.accounts.create_person("alice", "correct horse")
    return await place.accounts.log_in(ALICE, DeviceWish(device_id, "Phone", refreshable))


async def test_a_known_token_costs_no_database_hop(place: Place) -> None:
    session = await log_in(place)
    first = await place.tokens.requester(session.tokens.access_token)
    assert (first.user_id, first.device_id) == (ALICE, session.device_id)

    async def refuse(function: object) -> None:
        raise AssertionError("the store was asked")

    place.db.read = refuse  # type: ignore[method-assign]
    assert await place.tokens.requester(session.tokens.access_token) is first


async def test_tokens_are_stored_only_as_hashes(place: Place) -> None:
    session = await log_in(place, refreshable=True)
    rows = await place.db.read(lambda tx: tx.all("SELECT * FROM tokens"))
    for token in (session.tokens.access_token, session.tokens.refresh_token):
        assert token
        assert token not in repr(rows)


async def test_an_expired_token_is_a_soft_logout(place: Place) -> None:
    session = await log_in(place, refreshable=True)
    await place.tokens.requester(session.tokens.access_token)
    place.clock.now += session.tokens.expires_in_ms or 0
    for _ in range(2):  # from memory and from the store
        with pytest.raises(errors.UnknownToken) as caught:
            await place.tokens.requester(session.tokens.access_token)
        assert caught.value.extra == {"soft_logout": True}


async def test_a_lost_answer_to_a_refresh_can_be_asked_for_again(place: Place) -> None:
    old = (await log_in(place, refreshable=True)).tokens
    assert old.refresh_token
    await place.tokens.requester(old.access_token)
    lost = await place.tokens.refresh(old.refresh_token)
    new = await place.tokens.refresh(old.refresh_token)
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(lost.access_token)
    await place.tokens.requester(old.access_token)  # still good: nobody has used the new one
    await place.tokens.requester(new.access_token)
    with pytest.raises(errors.UnknownToken):
        await place.tokens.refresh(old.refresh_token)
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(old.access_token)
    await place.tokens.requester(new.access_token)


async def test_using_the_new_refresh_token_ends_the_old_one(place: Place) -> None:
    first = (await log_in(place, refreshable=True)).tokens
    second = await place.tokens.refresh(first.refresh_token or "")
    third = await place.tokens.refresh(second.refresh_token or "")
    with pytest.raises(errors.UnknownToken):
        await place.tokens.refresh(first.refresh_token or "")
    fourth = await place.tokens.refresh(second.refresh_token or "")
    assert fourth.access_token != third.access_token
    rows = await place.db.read(lambda tx: tx.all("SELECT token FROM tokens"))
    assert len(rows) == 2


async def test_logging_out_ends_a_session_that_memory_still_knows(place: Place) -> None:
    session, other = await log_in(place), await log_in(place)
    await place.tokens.requester(session.tokens.access_token)
    await place.devices.delete(ALICE, [session.device_id])
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(session.tokens.access_token)
    await place.tokens.requester(other.tokens.access_token)
    assert ("deleted", ALICE, [session.device_id]) in place.heard


async def test_logging_in_with_a_known_device_ends_its_older_session(place: Place) -> None:
    old = await log_in(place, device_id="PHONE")
    await place.tokens.requester(old.tokens.access_token)
    await log_in(place, device_id="PHONE")
    with pytest.raises(errors.UnknownToken):
        await place.tokens.requester(old.tokens.access_token)
    assert len(await place.devices.list(ALICE)) == 1


async def test_when_a_device_was_last_seen_is_told_at_once_and_written_later(place: Place) -> None:
    session = await log_in(place)
    await place.tokens.requester(session.tokens.access_token, "192.0.2.7")
    commits = place.db.commits
    (device,) = await place.devices.list(ALICE)
    assert (device["last_seen_ts"], device["last_seen_ip"]) == (place.clock.now, "192.0.2.7")
    assert place.db.commits == commits
    await place.tokens.write_last_seen()
    assert place.tokens.last_seen(ALICE, session.device_id) is None
    assert await place.devices.list(ALICE) == [device]
