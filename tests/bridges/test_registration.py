"""Registration files, as bridges generate them, and as people break them."""

from __future__ import annotations

import contextlib
import time
import warnings

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.bridges.patterns import PatternError, compiled, matches
from edgeserver.bridges.registration import RegistrationError, load, parse

MAUTRIX = """
id: telegram
as_token: dGhlIGFzIHRva2Vu
hs_token: dGhlIGhzIHRva2Vu
namespaces:
    users:
    - exclusive: true
      regex: '^@telegram_.+:example\\.org$'
    - exclusive: true
      regex: '^@telegrambot:example\\.org$'
    aliases:
    - exclusive: true
      regex: \\#telegram_.*:example\\.org
url: http://localhost:29317
sender_localpart: 98r2skJDA
rate_limited: false
de.sorunome.msc2409.push_ephemeral: true
push_ephemeral: true
org.matrix.msc3202: true
io.element.msc4190: true
"""
GIVEN = {"id": "irc", "url": "http://localhost:1", "as_token": "a", "hs_token": "h", "sender_localpart": "bot", "namespaces": {}}


def test_a_file_that_a_bridge_has_generated_is_read():
    found = parse(MAUTRIX.encode())
    assert (found.id, found.url, found.sender_localpart) == ("telegram", "http://localhost:29317", "98r2skJDA")
    assert found.receive_ephemeral
    assert found.encrypts
    assert not found.rate_limited
    assert [one.takes("@telegram_7:example.org") for one in found.users] == [True, False]
    assert not found.users[0].takes("@telegram_7:example.org.evil")
    assert found.aliases[0].takes("#telegram_hills:example.org")
    assert found.rooms == ()


def test_json_is_yaml_too():
    import json

    assert parse(json.dumps({**GIVEN, "url": None, "protocols": ["irc", "irc"], "receive_ephemeral": True}).encode()).url is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "id is missing"), ({"id": "a|b"}, "id has the character"), ({"id": 7}, "id is missing, or no text"),
        ({"url": 7}, "no http:// or https:// URL"), ({"url": "localhost:9"}, "such as http://localhost"), ({"url": "ftp://x"}, "url"),
        ({"url": "http://[x"}, "url"), ({"url": "http://u:p@x"}, "url"), ({"url": "http://x:99999"}, "url"),
        ({"as_token": ""}, "as_token is missing"), ({"hs_token": "a\nb"}, "hs_token has characters"), ({"as_token": "é"}, "as_token"),
        ({"namespaces": None}, "namespaces is missing"), ({"namespaces": {"users": {}}}, None), ({"namespaces": {"users": "x"}}, "users"),
        ({"namespaces": {"users": ["x"]}}, "has no regex"), ({"namespaces": {"rooms": [{"regex": "("}]}}, "is no regular expression"),
        ({"namespaces": {"aliases": [{"regex": "(a+)+"}]}}, "take very long"),
        ({"namespaces": {"users": [{"regex": "a", "exclusive": "yes"}]}}, "exclusive"),
        ({"namespaces": {"users": [{"regex": "a"}] * 101}}, "at most 100"),
        ({"rate_limited": "no"}, "rate_limited is 'no', neither true nor false"), ({"protocols": "irc"}, "protocols"),
        ({"protocols": [1]}, "protocols"), ({"org.matrix.msc3202": 1}, "org.matrix.msc3202"),
    ],
)  # fmt: skip
def test_whoever_got_it_wrong_is_told_in_one_sentence(change, words):
    text = yaml.safe_dump({**GIVEN, **change}).encode()
    if words is None:
        parse(text)
        return
    with pytest.raises(RegistrationError) as refused:
        parse(text, "irc.yaml")
    said = str(refused.value)
    assert said.startswith("irc.yaml: ")
    assert said.endswith(".")
    assert "\n" not in said
    assert words in said


@pytest.mark.parametrize("text", [b"id: [", b"- a", b"", b"\xff\xfe\x00", b"!!python/object:os.system x", b"a: &a [*a]", b"x" * 300_000,
                                  b"[" * 5000])  # fmt: skip
def test_what_is_no_registration_at_all_is_one_sentence_too(text):
    with pytest.raises(RegistrationError):
        parse(text)


def test_two_services_share_no_id_token_or_account(tmp_path):
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    paths[0].write_text(yaml.safe_dump(GIVEN))
    for key in ("id", "as_token", "sender_localpart"):
        other = {**GIVEN, "id": "other", "as_token": "other", "sender_localpart": "other", key: GIVEN[key]}
        paths[1].write_text(yaml.safe_dump(other))
        with pytest.raises(RegistrationError, match=rf"two\.yaml: its {key} is that of another"):
            load(paths, "a.test")
    paths[1].write_text(yaml.safe_dump({**GIVEN, "sender_localpart": "Ünfit"}))
    with pytest.raises(RegistrationError, match="no user name here"):
        load(paths[1:], "a.test")


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*", "(a|a)*$", "(a|b?)+", "([a-z]+_)*x", "(?:a{1,3})+", "(a?){20}", "((ab)*c)+", "(.*a){9}", "(?:(?:a+)){2,}",
        "(?=(a+)+)x", r"(a+)\1+", r"(?P<x>a+)(?P=x)", ".*.*.*.*a", "a{0,100}b{0,100}c{0,100}d{0,100}", "x" * 2000, "(", "[a", "a{3,1}",
        "(?x)(a+) +$", "(?ix:(a+) +)$", "(?xi)a", "(a+)(?#remark)+$",
        "*", r"(\(a+)+", "a?" * 30 + "a" * 30, "(a|ab)" * 30 + "!", "a|.*.*.*.*", "((a|b)c)+",
    ],
)  # fmt: skip
def test_a_pattern_that_a_stranger_could_keep_the_box_busy_with_is_refused(pattern):
    with pytest.raises(PatternError):
        compiled(pattern)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (r"@irc_.*:example\.org", "@irc_bob:example.org"), (r"@(irc|xmpp)_[^:]+:x", "@xmpp_a:x"), (r"@_?irc(_.+)?:x", "@irc_a:x"),
        (r"@[]a-z[]+:x", "@a[]:x"), (r"@[^]]+:x", "@a:x"), (r"@a{2}b{1,3}:x", "@aabb:x"), (r"@(ab){3}:x", "@ababab:x"),
        (r"@(?!irc_bot).*:x", "@irc_a:x"), (r"@a{b", "@a{b"), (r"@\(a+\)+:x", "@(aa)):x"), (r"@(?P<n>[a-z]+):x", "@ab:x"),
        (r"(?i)@IRC_.*", "@irc_a:x"), (r"(?i-x:@IRC_.*)", "@irc_a:x"), (r"@(?P<x>[a-z]+):x", "@ab:x"),
        (r"@(?:a+|b):x", "@aa:x"), (r"@[\]+]+:x", "@+]:x"), ("", "@a:x"),
    ],
)  # fmt: skip
def test_the_patterns_that_people_write_are_taken(pattern, name):
    assert matches(compiled(pattern), name)


@given(st.text(alphabet="ab01^$.*+?{},()[]|\\\\:=!<>#P&~-imsxu \n", max_size=30))
@settings(max_examples=500, deadline=None)
def test_whatever_is_written_is_taken_or_refused_in_words(pattern):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `re` warns of what may mean something else one day
        with contextlib.suppress(PatternError):
            compiled(pattern)


def test_names_longer_than_any_can_be_match_nothing():
    assert matches(compiled("@.*"), "@" + "x" * 254)
    assert not matches(compiled("@.*"), "@" + "x" * 255)


@pytest.mark.parametrize("pattern", [".*.*.*a", "@[a-z]+[a-z_]+[a-z]*!", "(a{0,8}){1}b*a*!"])
def test_the_slowest_that_is_taken_is_done_within_a_moment(pattern):
    found = compiled(pattern)
    began = time.process_time()
    for letter in ("a", "b"):
        matches(found, "@" + letter * 253 + "!x")
        matches(found, letter * 255)
    assert time.process_time() - began < 2
