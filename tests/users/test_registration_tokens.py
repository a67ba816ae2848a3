"""Registration tokens: who they let in, and how operators make, change and delete them."""

from __future__ import annotations

import pytest

from edgeserver.matrix import errors
from edgeserver.users.accounts import Accounts
from edgeserver.users.registration_tokens import RegistrationTokens
from tests.users.places import Place, weak_passwords

PASSWORD = "correct horse"


@pytest.fixture
def tokens(place: Place) -> RegistrationTokens:
    return RegistrationTokens(place.db, place.clock)


async def test_a_token_lets_in_as_many_as_it_says_until_it_expires(place: Place, tokens: RegistrationTokens) -> None:
    made = await tokens.create(uses=1, expires_at=place.clock.now + 10)
    await place.accounts.create_person("alice", PASSWORD, registration_token=made.token)
    with pytest.raises(errors.Forbidden):
        await place.accounts.create_person("bob", PASSWORD, registration_token=made.token)
    assert await place.accounts.account("@bob:test") is None
    assert (await tokens.get(made.token)).completed == 1
    lasting = await tokens.create("again", expires_at=place.clock.now + 10)
    assert await place.accounts.registration_token_is_valid(lasting.token)
    place.clock.now += 11
    assert not await place.accounts.registration_token_is_valid(lasting.token)


async def test_tokens_of_the_configuration_let_anybody_in(place: Place) -> None:
    accounts = Accounts(
        place.db, "test", place.clock,
        tokens=place.tokens, devices=place.devices, passwords=weak_passwords(), registration_tokens=["fixed"],
    )  # fmt: skip
    assert await accounts.registration_token_is_valid("fixed")
    for name in ("alice", "bob"):
        await accounts.create_person(name, PASSWORD, registration_token="fixed")
    assert not await place.accounts.registration_token_is_valid("fixed")


async def test_tokens_are_listed_by_whether_they_are_good(place: Place, tokens: RegistrationTokens) -> None:
    await tokens.create("open")
    await tokens.create("none", uses=0)
    await tokens.create("old", expires_at=place.clock.now + 1)
    place.clock.now += 2
    assert [one.token for one in await tokens.list()] == ["none", "old", "open"]
    assert [one.token for one in await tokens.list(True)] == ["open"]
    assert [one.token for one in await tokens.list(False)] == ["none", "old"]


async def test_a_token_is_changed_in_part_and_deleted(place: Place, tokens: RegistrationTokens) -> None:
    await tokens.create("one", uses=3)
    changed = await tokens.change("one", expires_at=place.clock.now + 5)
    assert (changed.uses_allowed, changed.expires_at) == (3, place.clock.now + 5)
    changed = await tokens.change("one", uses=None)
    assert (changed.uses_allowed, changed.expires_at) == (None, place.clock.now + 5)
    await tokens.delete("one")
    for asked in (tokens.get("one"), tokens.change("one", uses=1), tokens.delete("one")):
        with pytest.raises(errors.NotFound):
            await asked


async def test_what_is_no_token_is_refused(place: Place, tokens: RegistrationTokens) -> None:
    await tokens.create("taken")
    wrong = [
        {"token": "taken"}, {"token": ""}, {"token": "a b"}, {"token": "x" * 65}, {"length": 0}, {"length": 65},
        {"uses": -1}, {"expires_at": place.clock.now - 1},
    ]  # fmt: skip
    for wish in wrong:
        with pytest.raises(errors.InvalidParam):
            await tokens.create(**wish)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidParam):
        await tokens.change("taken", uses=True)


async def test_there_are_only_so_many_tokens(place: Place) -> None:
    tokens = RegistrationTokens(place.db, place.clock, at_most=2)
    await tokens.create()
    await tokens.create()
    with pytest.raises(errors.InvalidParam, match="already"):
        await tokens.create()


async def test_short_tokens_run_out(tokens: RegistrationTokens) -> None:
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-":
        await tokens.create(letter)
    with pytest.raises(errors.InvalidParam, match="used up"):
        await tokens.create(length=1)
