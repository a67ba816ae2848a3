"""Which names a gateway carries, on whose word."""

from __future__ import annotations

import pytest

from edgeserver.gateway.delegation import MAX_CHAIN
from edgeserver.matrix.errors import BadJson, Forbidden
from tests.gateway.places import DAY, GATEWAY, NOW, KeyedBox, Line, gateway_of, pair


async def test_a_paired_box_is_carried_once_it_has_announced_itself(db):
    a = KeyedBox(1)
    routes = await gateway_of(db, a)
    assert not routes.fronts(a.name)
    assert await routes.accept(a.name, {"routes": [[a.word(GATEWAY)]]}) == {"accepted": [a.name]}
    assert routes.fronts(a.name)
    assert routes.exchange_to(a.name) is None
    line = Line()
    routes.link_up(a.public_key, line)
    assert routes.exchange_to(a.name) is line
    routes.link_down(a.public_key, Line())  # an older link, whose end is told of late
    assert routes.exchange_to(a.name) is line
    routes.link_down(a.public_key, line)
    assert routes.exchange_to(a.name) is None


async def test_names_are_known_again_after_a_restart(db):
    a = KeyedBox(1)
    await (await gateway_of(db, a)).accept(a.name, {"routes": [[a.word(GATEWAY)]]})
    assert (await gateway_of(db, a)).fronts(a.name)


async def test_a_box_that_is_paired_but_not_fronted_cannot_announce_anything(db):
    a, b = KeyedBox(1), KeyedBox(2)
    routes = await gateway_of(db, a)
    await pair(db, b, fronted=False)
    await routes.load()
    for peer in (b.name, "stranger.test"):
        with pytest.raises(Forbidden):
            await routes.accept(peer, {"routes": [[b.word(GATEWAY)]]})
    assert not routes.may_use(b.name)
    assert routes.may_use(a.name)


async def test_nothing_is_carried_any_more_when_the_box_is_paired_anew_without_a_front(db):
    a = KeyedBox(1)
    routes = await gateway_of(db, a)
    await routes.accept(a.name, {"routes": [[a.word(GATEWAY)]]})
    await pair(db, a, fronted=False)
    await routes.load()
    assert not routes.fronts(a.name)


async def test_a_box_brings_the_boxes_that_it_fronts_for(db):
    a, b = KeyedBox(1), KeyedBox(2)
    routes = await gateway_of(db, b)
    found = await routes.accept(b.name, {"routes": [[b.word(GATEWAY)], [a.word(b.name), b.word(GATEWAY)]]})
    assert found == {"accepted": sorted([a.name, b.name])}
    line = Line()
    routes.link_up(b.public_key, line)
    assert routes.exchange_to(a.name) is line
    assert set(routes.names_via(b.public_key)) == {a.name, b.name}
    # It goes on to our own gateway in the same way.
    told = routes.announcement("up.test")["routes"]
    assert {tuple(word["box"] for word in chain) for chain in told} == {(GATEWAY,), (b.name, GATEWAY), (a.name, b.name, GATEWAY)}


def _forgeries(a: KeyedBox, b: KeyedBox, c: KeyedBox) -> dict[str, list[object]]:
    signed_by_another = {**a.word(b.name), "signatures": b.word(GATEWAY)["signatures"]}
    renamed = {**b.word(GATEWAY), "box": a.name}
    moved = {**a.word(c.name), "via": b.name}
    return {
        "no word at all": [],
        "only the announcer's word for another's name": [renamed],
        "a word that another has signed": [signed_by_another, b.word(GATEWAY)],
        "a word for somebody else": [a.word(c.name), b.word(GATEWAY)],
        "a word that was altered": [moved, b.word(GATEWAY)],
        "the announcer's word is missing": [a.word(b.name)],
        "a word for another gateway": [b.word("other.test")],
        "a word without a time": [{key: value for key, value in b.word(GATEWAY).items() if key != "issued_ts"}],
        "things that are no words": ["word", 1, None],
        "a chain too long": [a.word(b.name)] * MAX_CHAIN + [b.word(GATEWAY)],
    }


@pytest.mark.parametrize("what", _forgeries(KeyedBox(1), KeyedBox(2), KeyedBox(3)))
async def test_a_hostile_box_cannot_claim_the_name_of_another_with(db, what):
    a, b, c = KeyedBox(1), KeyedBox(2), KeyedBox(3)
    routes = await gateway_of(db, a, b)
    await routes.accept(a.name, {"routes": [[a.word(GATEWAY)]]})
    line = Line()
    routes.link_up(a.public_key, line)
    assert await routes.accept(b.name, {"routes": [_forgeries(a, b, c)[what]]}) == {"accepted": []}
    assert routes.exchange_to(a.name) is line


async def test_a_name_with_a_domain_is_believed_by_its_pairing_alone(db):
    a, b = KeyedBox(1, "box.example.org"), KeyedBox(2)
    routes = await gateway_of(db, b)
    chain = [a.word(b.name), b.word(GATEWAY)]
    assert await routes.accept(b.name, {"routes": [chain]}) == {"accepted": []}
    await pair(db, a)
    await routes.load()
    assert await routes.accept(b.name, {"routes": [chain]}) == {"accepted": [a.name]}


async def test_the_gateways_own_name_is_never_led_elsewhere(db):
    b = KeyedBox(2)
    routes = await gateway_of(db, b)
    own_word = routes.announcement(b.name)["routes"][0][0]
    assert await routes.accept(b.name, {"routes": [[own_word, b.word(GATEWAY)]]}) == {"accepted": []}


async def test_an_old_word_does_not_draw_a_name_back(db):
    a, b, c = KeyedBox(1), KeyedBox(2), KeyedBox(3)
    routes = await gateway_of(db, a, b, c)
    behind_b = [a.word(b.name, NOW - DAY), b.word(GATEWAY)]
    assert await routes.accept(b.name, {"routes": [behind_b]}) == {"accepted": [a.name]}
    # It moves behind c: a newer word; and b cannot have it back with the old one.
    assert await routes.accept(c.name, {"routes": [[a.word(c.name, NOW - 1), c.word(GATEWAY)]]}) == {"accepted": [a.name]}
    assert await routes.accept(b.name, {"routes": [behind_b]}) == {"accepted": []}
    assert routes.names_via(c.public_key) == [a.name]
    # It comes itself, with a clock that is behind: that is who it is.
    assert await routes.accept(a.name, {"routes": [[a.word(GATEWAY, NOW - 9 * DAY)]]}) == {"accepted": [a.name]}
    assert routes.names_via(a.public_key) == [a.name]


async def test_names_that_are_not_announced_any_more_are_let_go(db):
    a, b = KeyedBox(1), KeyedBox(2)
    routes = await gateway_of(db, b)
    changes = []

    async def changed() -> None:
        changes.append(set(routes.names_via(b.public_key)))

    routes.on_change(changed)
    both = {"routes": [[b.word(GATEWAY)], [a.word(b.name), b.word(GATEWAY)]]}
    await routes.accept(b.name, both)
    await routes.accept(b.name, both)
    await routes.accept(b.name, {"routes": [[b.word(GATEWAY)]]})
    assert changes == [{a.name, b.name}, {b.name}]


@pytest.mark.parametrize("body", [{}, {"routes": {}}, {"routes": [[]] * 257}], ids=["none", "no list", "too many"])
async def test_a_malformed_announcement_is_refused(db, body):
    a = KeyedBox(1)
    routes = await gateway_of(db, a)
    with pytest.raises(BadJson):
        await routes.accept(a.name, body)


async def test_key_responses_are_kept_in_the_store_while_they_say_something_new(db):
    a, b = KeyedBox(1), KeyedBox(2)
    now = NOW
    routes = await gateway_of(db, a, now_ms=lambda: now)
    await routes.remember_key_response(a.name, a.key_response())
    assert routes.key_response(a.name) is None, "nobody has announced it yet"
    await routes.accept(a.name, {"routes": [[a.word(GATEWAY)]]})
    for wrong in (b.key_response(), b"{}", b"[]", b"\xff", b" " * 70_000, a.key_response().replace(b"valid_until_ts", b"valid_until_tt")):
        await routes.remember_key_response(a.name, wrong)
        assert routes.key_response(a.name) is None
    await routes.remember_key_response(a.name, a.key_response())
    await routes.remember_key_response(a.name, a.key_response(NOW + DAY + 1))
    assert routes.key_response(a.name) == a.key_response()
    assert routes.keys_are_fresh(a.name)
    now += DAY * 3 // 4
    assert not routes.keys_are_fresh(a.name)
    await routes.remember_key_response(a.name, a.key_response(NOW + 2 * DAY))
    assert routes.key_response(a.name) == a.key_response(NOW + 2 * DAY)
    assert (await gateway_of(db, a)).key_response(a.name) == a.key_response(NOW + 2 * DAY)


async def test_a_key_response_that_the_stated_key_has_not_signed_is_not_kept(db):
    a, b = KeyedBox(1), KeyedBox(2)
    routes = await gateway_of(db, b)
    await routes.accept(b.name, {"routes": [[a.word(b.name), b.word(GATEWAY)]]})
    forged = KeyedBox(2, a.name).key_response()  # what lies between has put in its own key
    await routes.remember_key_response(a.name, forged)
    assert routes.key_response(a.name) is None
