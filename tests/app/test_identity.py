"""The box's key and its permanent name."""

from __future__ import annotations

import stat

import pytest

from edgeserver.app.identity import IdentityError, load_or_make
from edgeserver.matrix import server_names


def test_a_first_boot_makes_the_key_and_the_name(tmp_path):
    made = load_or_make(tmp_path / "data", "", "gw.example.org")
    assert made.is_new
    assert made.is_self_named
    assert server_names.key_of(made.server_name) == made.signing_key.verify_key
    assert made.server_name.endswith(".gw.example.org")
    assert made.signing_key.key_id == f"ed25519:{made.server_name[:8]}"
    assert stat.S_IMODE((tmp_path / "data" / "identity.key").stat().st_mode) == 0o600


def test_the_next_boot_finds_them_again(tmp_path):
    made, again = load_or_make(tmp_path, "", "mesh"), load_or_make(tmp_path, "", "mesh")
    assert not again.is_new
    assert (again.seed, again.server_name) == (made.seed, made.server_name)


def test_a_box_with_a_domain_has_a_key_too(tmp_path):
    made = load_or_make(tmp_path, "box.example.org", "mesh")
    assert made.server_name == "box.example.org"
    assert not made.is_self_named


@pytest.mark.parametrize(("name", "suffix"), [("other.example.org", "mesh"), ("", "gw.example.org")])
def test_a_name_is_permanent(tmp_path, name, suffix):
    before = load_or_make(tmp_path, "", "mesh").server_name
    with pytest.raises(IdentityError, match="names are permanent") as refused:
        load_or_make(tmp_path, name, suffix)
    assert before in str(refused.value)
    assert load_or_make(tmp_path, "", "mesh").server_name == before


@pytest.mark.parametrize("text", ["", "not base64 !", "AAAA", "\xff" * 20])
def test_a_spoilt_key_is_refused_and_not_replaced(tmp_path, text):
    load_or_make(tmp_path, "", "mesh")
    path = tmp_path / "identity.key"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(IdentityError, match="restore it from a backup"):
        load_or_make(tmp_path, "", "mesh")
    assert path.read_bytes() == text.encode("latin-1")


def test_a_lost_key_is_not_replaced_by_a_new_one_under_the_old_name(tmp_path):
    load_or_make(tmp_path, "box.example.org", "mesh")
    (tmp_path / "identity.key").unlink()
    with pytest.raises(IdentityError):
        load_or_make(tmp_path, "box.example.org", "mesh")


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupted_first_boot_is_finished_by_the_next(tmp_path, number):
    (tmp_path / "identity.new").write_text("half a k")
    if number == 2:
        (tmp_path / "server_name.new").write_text("half.a")
    made = load_or_make(tmp_path, "", "mesh")
    assert load_or_make(tmp_path, "", "mesh").seed == made.seed
