import pytest

from edgeserver.matrix import identifiers

HASH = "a" * 42 + "_"
LONG = "x" * 250


@pytest.mark.parametrize(
    "user_id", ["@alice:one.example", "@:one.example", "@Älice B!*:[::1]:80", "@a\n:b", "@a:b:8448"]
)
def test_user_ids_of_the_past_are_accepted(user_id):
    assert identifiers.is_user_id(user_id)


@pytest.mark.parametrize(
    "value",
    [
        "alice:one.example",
        "@alice",
        "@alice:",
        "@a:b c",
        "@a\0:b",
        "@\ud800:b",
        f"@{LONG}:one.example",
        "@" + "ü" * 126 + ":b.c",
        "",
        5,
        None,
        ["@a:b"],
    ],
)
def test_what_is_not_a_user_id_is_refused(value):
    assert not identifiers.is_user_id(value)


@pytest.mark.parametrize(
    ("identifier", "domain", "localpart"),
    [("@a:b", "b", "a"), ("@a:b:80", "b:80", "a"), ("#x y:[::1]:80", "[::1]:80", "x y"), (f"!{HASH}", "", HASH)],
)
def test_an_identifier_is_split_at_its_first_colon(identifier, domain, localpart):
    assert identifiers.domain_of(identifier) == domain
    assert identifiers.localpart_of(identifier) == localpart


def test_our_own_users_get_strict_names():
    assert identifiers.user_id("a.b_c=d-e/f+1", "one.example") == "@a.b_c=d-e/f+1:one.example"
    for localpart in ("", "Alice", "a b", "ä", "a:b", LONG):
        with pytest.raises(ValueError, match="local part"):
            identifiers.user_id(localpart, "one.example")


def test_a_room_id_has_a_domain_or_is_a_hash():
    assert identifiers.is_room_id("!r:one.example")
    assert identifiers.is_room_id(f"!{HASH}")
    assert not identifiers.is_domain_room_id(f"!{HASH}")
    assert not identifiers.is_hash_room_id("!r:one.example")
    for wrong in ("!r", f"!{HASH}a", "!" + "+" * 43, f"#{HASH}", "r:one.example", None):
        assert not identifiers.is_room_id(wrong)


def test_an_alias_has_a_domain():
    assert identifiers.is_room_alias("#räum 1:one.example")
    assert not identifiers.is_room_alias("#room")
    assert not identifiers.is_room_alias(1)


def test_an_event_id_has_a_domain_or_is_a_hash_of_its_format():
    standard = "$" + "+/" * 21 + "a"
    assert identifiers.is_url_safe_event_id(f"${HASH}")
    assert not identifiers.is_url_safe_event_id(standard)
    assert identifiers.is_standard_event_id(standard)
    assert not identifiers.is_standard_event_id(f"${HASH}")
    assert identifiers.is_domain_event_id("$e:one.example")
    assert all(identifiers.is_event_id(value) for value in (f"${HASH}", standard, "$e:one.example"))
    assert not any(identifiers.is_event_id(value) for value in ("$e", HASH, f"${HASH}\n", 1, None))


def test_a_key_id_has_an_algorithm_and_a_version():
    assert identifiers.is_key_id("ed25519:auto_1")
    assert not any(
        identifiers.is_key_id(value) for value in ("ed25519", "ed25519:", ":1", "ed25519:a b", 1, "a:" + LONG * 2)
    )
