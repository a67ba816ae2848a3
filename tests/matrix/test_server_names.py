import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import server_names
from edgeserver.matrix.server_names import ServerName

keys = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("matrix.org", ServerName("matrix.org", None)),
        ("matrix.org:8888", ServerName("matrix.org", 8888)),
        ("1.2.3.4", ServerName("1.2.3.4", None)),
        ("1.2.3.4:1234", ServerName("1.2.3.4", 1234)),
        ("[1234:5678::abcd]", ServerName("[1234:5678::abcd]", None)),
        ("[1234:5678::abcd]:5678", ServerName("[1234:5678::abcd]", 5678)),
        ("localhost", ServerName("localhost", None)),
    ],
)
def test_a_server_name_is_taken_apart(name, parsed):
    assert server_names.parse(name) == parsed


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "a_b",
        "ünicode.example",
        "a:",
        "a:b",
        "a:70000",
        "a:123456",
        "a:1:2",
        ":80",
        "[::1",
        "[::1]x",
        "[::1%eth0]",
        "[1.2.3.4]",
        "a/b",
        "a" * 256,
        "x" * 100_000,
    ],
)
def test_what_is_not_a_server_name_is_refused(name):
    assert server_names.parse(name) is None
    assert not server_names.is_valid(name)


def test_an_address_is_told_from_a_name():
    literal = {name: server_names.parse(name).is_ip_literal for name in ("1.2.3.4", "[::1]:8448", "a.b", "1.2.3.400")}
    assert literal == {"1.2.3.4": True, "[::1]:8448": True, "a.b": False, "1.2.3.400": False}


@given(keys)
@settings(max_examples=60)
def test_a_key_has_a_name_that_states_it(key):
    label = server_names.label_of(key)
    assert len(label) == 52
    assert server_names.key_of(f"{label}.gate.example") == key
    mesh = server_names.name_of(key)
    assert mesh == f"{label}.mesh"
    assert server_names.key_of(mesh) == key
    assert server_names.is_mesh(mesh)
    assert not server_names.is_mesh(f"{label}.gate.example")
    assert server_names.is_valid(mesh)


@given(keys)
@settings(max_examples=30)
def test_a_key_has_one_spelling_only(key):
    label = server_names.label_of(key)
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    spellings = [label[:-1] + last for last in alphabet]
    assert [s for s in spellings if server_names.key_of(f"{s}.mesh") == key] == [label]
    assert sum(server_names.key_of(f"{s}.mesh") is not None for s in spellings) == 2  # one bit of 256 is in the last


@pytest.mark.parametrize(
    "name",
    [
        "matrix.org",
        "{label}",
        "{label}.",
        "x{label}.mesh",
        "{label}.mesh:8448",
        "{upper}.mesh",
        "a.{label}.mesh",
        "0" * 52 + ".mesh",
        "{short}.mesh",
        "{label}.a b",
    ],
)
def test_other_names_certify_nothing(name):
    label = server_names.label_of(bytes(range(32)))
    name = name.format(label=label, upper=label.upper(), short=label[:-1])
    assert server_names.key_of(name) is None
    assert not server_names.is_mesh(name)


def test_the_key_id_is_the_first_eight_characters_of_the_label():
    name = server_names.name_of(bytes(range(32)))
    assert server_names.key_id_of(name) == "ed25519:" + name[:8]


def test_a_label_is_made_of_32_bytes_only():
    with pytest.raises(ValueError, match="32 bytes"):
        server_names.label_of(b"short")
