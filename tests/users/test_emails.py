"""Email addresses: validations, what they are good for, their bounds and their end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserver.matrix import errors
from edgeserver.matrix.errors import MatrixError
from edgeserver.store import email_addresses
from edgeserver.users.emails import LIFETIME_MS, MAX_ADDRESSES, VALIDATIONS, Emails, MailNotSent, Purpose, checked_address
from tests.users.places import Place, open_place

ALICE, BOB = "@alice:test", "@bob:test"
ANA = "ana@home.example"


class Mailbox:
    """Takes mail, unless it is shut."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, str]] = []
        self.shut = False

    async def send(self, address: str, subject: str, text: str) -> None:
        if self.shut:
            raise MailNotSent("shut")
        self.mails.append((address, subject, text))

    @property
    def token(self) -> str:
        """Of the newest mail's link."""
        found = re.search(r"https://test/confirm/(\S+)", self.mails[-1][2])
        assert found is not None
        return found[1]


class House:
    def __init__(self, place: Place) -> None:
        self.place = place
        self.mailbox = Mailbox()
        self.emails = Emails(place.db, "test", place.clock, self.mailbox, lambda token: f"https://test/confirm/{token}")

    async def validated(self, purpose: Purpose, address: str = ANA, secret: str = "s3cret") -> str:
        sid = await self.emails.request(purpose, address, secret, 1)
        await self.emails.confirm(self.mailbox.token)
        return sid

    async def has(self, user_id: str, address: str = ANA) -> None:
        await self.emails.add_to(user_id, await self.validated(Purpose.ADD, address), "s3cret")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_place(tmp_path) as place:
        yield House(place)


async def test_an_address_is_added_once_its_link_has_been_followed(house: House) -> None:
    sid = await house.emails.request(Purpose.ADD, "Ana@Home.example", "s3cret", 1)
    (mail,) = house.mailbox.mails
    assert mail[0] == ANA
    with pytest.raises(errors.ThreepidAuthFailed):
        await house.emails.add_to(ALICE, sid, "s3cret")
    await house.emails.confirm(house.mailbox.token)
    with pytest.raises(errors.ThreepidAuthFailed):
        await house.emails.add_to(ALICE, sid, "another")
    await house.emails.add_to(ALICE, sid, "s3cret")
    (one,) = await house.emails.addresses(ALICE)
    now = house.place.clock.now
    assert one == {"medium": "email", "address": ANA, "validated_at": now, "added_at": now}
    assert await house.emails.owner("ANA@home.example") == ALICE
    with pytest.raises(errors.ThreepidAuthFailed):  # it served once
        await house.emails.add_to(BOB, sid, "s3cret")


async def test_only_a_higher_attempt_sends_another_mail_and_its_link_replaces_the_older_one(house: House) -> None:
    sid = await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    first = house.mailbox.token
    assert await house.emails.request(Purpose.ADD, ANA, "s3cret", 1) == sid
    assert len(house.mailbox.mails) == 1
    assert await house.emails.request(Purpose.ADD, ANA, "s3cret", 2) == sid
    assert len(house.mailbox.mails) == 2
    with pytest.raises(errors.NotFound):
        await house.emails.confirm(first)
    await house.emails.confirm(house.mailbox.token)
    await house.emails.check(sid, "s3cret")
    for attempt in (1, 3):  # asking again takes nothing back
        assert await house.emails.request(Purpose.ADD, ANA, "s3cret", attempt) == sid
        await house.emails.check(sid, "s3cret")
    assert len(house.mailbox.mails) == 2
    assert await house.emails.request(Purpose.ADD, ANA, "other", 1) != sid


async def test_a_mail_that_cannot_be_sent_is_an_error_and_the_same_attempt_may_be_made_again(house: House) -> None:
    house.mailbox.shut = True
    with pytest.raises(MatrixError) as failed:
        await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    assert (failed.value.status, failed.value.errcode) == (502, "M_UNKNOWN")
    house.mailbox.shut = False
    await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    assert len(house.mailbox.mails) == 1


async def test_secrets_and_links_are_stored_only_as_hashes(house: House) -> None:
    await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    row = await house.place.db.read(lambda tx: tx.one("SELECT * FROM email_validations"))
    assert ANA in str(row)
    assert "s3cret" not in str(row)
    assert house.mailbox.token not in str(row)


async def test_a_validation_lives_for_a_day(house: House) -> None:
    sid = await house.validated(Purpose.ADD)
    token = house.mailbox.token
    house.place.clock.now += LIFETIME_MS
    with pytest.raises(errors.NotFound):
        await house.emails.confirm(token)
    with pytest.raises(errors.ThreepidAuthFailed):
        await house.emails.add_to(ALICE, sid, "s3cret")
    # Asked for again, with the attempt that the client counts from one: a new mail
    await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    assert len(house.mailbox.mails) == 2


async def test_a_validation_serves_the_purpose_that_it_was_made_for(house: House) -> None:
    for purpose in (Purpose.REGISTER, Purpose.PASSWORD):
        if purpose is Purpose.PASSWORD:
            await house.has(BOB, "bob@home.example")
        address = "bob@home.example" if purpose is Purpose.PASSWORD else ANA
        sid = await house.validated(purpose, address)
        with pytest.raises(errors.ThreepidAuthFailed):
            await house.emails.add_to(ALICE, sid, "s3cret")


async def test_an_address_belongs_to_one_account(house: House) -> None:
    waiting = await house.validated(Purpose.ADD, secret="bobs")
    await house.has(ALICE)
    for purpose in (Purpose.ADD, Purpose.REGISTER):
        with pytest.raises(errors.ThreepidInUse):
            await house.emails.request(purpose, ANA, "s3cret", 1)
    with pytest.raises(errors.ThreepidInUse):
        await house.emails.add_to(BOB, waiting, "bobs")
    await house.emails.remove(BOB, ANA)
    assert await house.emails.owner(ANA) == ALICE
    await house.emails.remove(ALICE, "ANA@home.example")
    assert await house.emails.owner(ANA) is None
    with pytest.raises(errors.ThreepidNotFound):
        await house.emails.request(Purpose.PASSWORD, ANA, "s3cret", 1)


async def test_an_account_has_only_so_many_addresses_and_only_so_many_are_under_way(house: House) -> None:
    for number in range(MAX_ADDRESSES):
        await house.has(ALICE, f"a{number}@home.example")
    with pytest.raises(errors.InvalidParam):
        await house.has(ALICE, "more@home.example")

    def fill(tx: object) -> None:
        for number in range(VALIDATIONS):
            one = email_addresses.Validation(f"sid{number}", ANA, f"p{number}", b"x", 1, None, 2**50, None)
            email_addresses.put_validation(tx, one, b"%d" % number)  # type: ignore[arg-type]

    await house.place.db.write(fill)
    await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    counted = await house.place.db.read(lambda tx: tx.one("SELECT count(*) FROM email_validations"))
    assert counted == (VALIDATIONS,)


async def test_a_validation_is_cancelled_by_who_asked_for_it(house: House) -> None:
    sid = await house.emails.request(Purpose.ADD, ANA, "s3cret", 1)
    token = house.mailbox.token
    for wrong in ((sid, "guess", None), ("other", "s3cret", None), (sid, "s3cret", "guess")):
        with pytest.raises(errors.ThreepidAuthFailed):
            await house.emails.cancel(*wrong)
    await house.emails.cancel(sid, "s3cret", token)
    with pytest.raises(errors.NotFound):
        await house.emails.confirm(token)


@pytest.mark.parametrize(
    ("address", "secret", "attempt", "next_link"),
    [
        ("nonsense", "s", 1, None),
        ("a@b@c.d", "s", 1, None),
        ("a@b.c\nBcc: d@e.f", "s", 1, None),
        ("a" * 250 + "@b.c", "s", 1, None),
        ("<a@b.c>", "s", 1, None),
        ("a..b@c.d", "s", 1, None),
        (ANA, "", 1, None),
        (ANA, "with space", 1, None),
        (ANA, "s" * 256, 1, None),
        (ANA, "s", 0, None),
        (ANA, "s", 2**40, None),
        (ANA, "s", 1, "javascript:alert(1)"),
        (ANA, "s", 1, "https://x/" + "y" * 2000),
        (ANA, "s", 1, 'https://x/"onclick="'),
    ],
)
async def test_requests_that_cannot_be(house: House, address: str, secret: str, attempt: int, next_link: str | None) -> None:
    with pytest.raises(errors.InvalidParam):
        await house.emails.request(Purpose.ADD, address, secret, attempt, next_link)
    assert house.mailbox.mails == []


@given(st.text(max_size=60))
def test_what_passes_for_an_address_can_stand_in_a_mail_header(text: str) -> None:
    try:
        address = checked_address(text)
    except errors.InvalidParam:
        return
    assert address.isascii()
    assert address.count("@") == 1
    assert not re.search(r"[\s<>,;:\"()\\\[\]\x00-\x1f]", address)
