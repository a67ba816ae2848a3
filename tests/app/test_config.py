"""The configuration file: what it says about itself, and what it says to somebody who got it wrong."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from edgeserver import config
from edgeserver.config import Config, ConfigError, describe, load, parse


def test_an_empty_file_is_a_configuration():
    assert parse("") == Config()


def test_the_description_is_a_file_of_nothing_but_defaults():
    assert parse(describe()) == Config()


def test_every_key_is_described_with_its_help_and_its_default():
    text = describe()
    for title, kind in {**config._SECTIONS, "links": config.Link, "contacts": config.Contact}.items():
        assert f"[{title}]" in text
        for key in fields(kind):
            assert key.metadata["help"], f"[{title}] {key.name} has no help"
            assert f"\n# {key.name} = " in text


def test_the_examples_and_defaults_of_the_description_are_values_that_are_taken():
    given = [line.removeprefix("# ") for line in describe().splitlines() if re.match(r"(# )?\[|# \w+ = ", line)]
    found = parse("\n".join(given))
    assert [link.uri for link in found.links] == ["serial:/dev/ttyUSB0,2400"]
    assert found.http.tls == ["0.0.0.0:443"]
    assert found.limits == Config().limits


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sever]\n", ["[sever]", "server"]),
        ("[server]\nnmae = 'a'\n", ["[server]", "nmae", "name"]),
        ("[server]\nname = 1\n", ["[server] name", "1", "text"]),
        ("[server]\nname = 'a b'\n", ["[server] name", "a b"]),
        ("[server]\nsuffix = 'gw.test:1'\n", ["[server] suffix", "gw.test:1"]),
        ("[server]\nclock = 'never'\n", ["clock", "never", "auto, system"]),
        ("server = 1\n", ["[server]", "section"]),
        ("[http]\nclient = '0.0.0.0:80'\n", ["[http] client", "list"]),
        ("[http]\nclient = ['80']\n", ["[http] client", "'80'", "host:port"]),
        ("[http]\ntls = ['0.0.0.0:99999']\n", ["[http] tls", "99999"]),
        ("[http]\nfederation = ['0.0.0.0:²']\n", ["[http] federation", "host:port"]),
        ("[http]\ncertificate = 'a.pem'\n", ["certificate_key", "both"]),
        ("[http]\nbehind_proxy = 'yes'\n", ["behind_proxy", "true or false"]),
        ("[accounts]\nregistration = 'maybe'\n", ["registration", "maybe", "closed, token, open"]),
        ("[turn]\nuris = ['turn:a.test']\n", ["[turn]", "shared_secret"]),
        ("[turn]\nuris = ['a.test']\nshared_secret = 'x'\n", ["[turn] uris", "a.test"]),
        ("[turn]\nuris = ['turn:a.test']\nshared_secret = 'x'\nlifetime = 1\n", ["[turn] lifetime", "seconds"]),
        ("[low_bandwidth]\nlisten = ['8448']\n", ["[low_bandwidth] listen", "'8448'", "host:port"]),
        ("[low_bandwidth]\nlisten = ['0.0.0.0:1']\ncertificate = false\n", ["[low_bandwidth] listen", "pre_shared_keys"]),
        ("[low_bandwidth]\nlines = ['serial:/dev/ttyUSB1,9600']\ncertificate = false\n", ["[low_bandwidth] lines", "pre_shared_keys"]),
        ("[low_bandwidth]\nlines = ['udp:a.test:1']\n", ["[low_bandwidth] lines", "udp:a.test:1", "serial:PATH,BAUD"]),
        ("[low_bandwidth]\nlines = ['serial:a,9600', 'serial:a,2400']\n", ["[low_bandwidth] lines", "more than once"]),
        ("[low_bandwidth]\nlines = ['serial:a,9600']\n[[links]]\nuri = 'serial:a,2400'\n", ["port a", "[[links]]", "lines"]),
        ("[low_bandwidth]\npre_shared_keys = ['rover:no key']\n", ["pre_shared_keys", "identity:key", "hexadecimal"]),
        ("[low_bandwidth]\npre_shared_keys = ['rover:00']\n", ["pre_shared_keys", "32 to 128"]),
        ("[low_bandwidth]\nport = 65536\n", ["[low_bandwidth] port", "65536"]),
        ("[notices]\nuser = 'Not A Name'\n", ["[notices] user", "Not A Name"]),
        ("[[contacts]]\nrole = 'm.role.admin'\n", ["[[contacts]]", "matrix_id", "email_address"]),
        ("[[contacts]]\nmatrix_id = 'admin'\n", ["[[contacts]]", "admin"]),
        ("[[contacts]]\nphone = '1'\n", ["[[contacts]]", "phone"]),
        ("contacts = 1\n", ["[[contacts]]"]),
        ("[smtp]\nhost = 'mail.test'\n", ["[smtp] sender", "host"]),
        ("[smtp]\nhost = 'mail.test'\nsender = 'a@b.test'\n", ["[smtp] host", "public_url"]),
        ("[smtp]\ntls = 'maybe'\n", ["tls", "maybe", "starttls, implicit, none"]),
        ("[smtp]\nregistration = 'yes'\n", ["registration", "no, optional, required"]),
        ("[limits]\nupload_bytes = -1\n", ["upload_bytes", "-1", "0 or more"]),
        ("[limits]\nupload_bytes = true\n", ["upload_bytes", "whole number"]),
        ("[limits]\nupload_bytes = 1.5\n", ["upload_bytes", "1.5"]),
        ("links = 3\n", ["[[links]]"]),
        ("[links]\nuri = 'x'\n", ["[[links]]"]),
        ("[[links]]\n", ["[[links]]", "uri"]),
        ("[[links]]\nurl = 'x'\n", ["[[links]]", "url", "uri"]),
        ("name = \n", ["TOML"]),
    ],
)
def test_whoever_got_it_wrong_is_told_in_one_sentence(text, words):
    with pytest.raises(ConfigError) as refused:
        parse(text)
    said = str(refused.value)
    assert "\n" not in said
    assert said.endswith(".")
    for word in words:
        assert word in said


def test_a_file_is_read_with_its_folder(tmp_path):
    path = tmp_path / "edgeserver.toml"
    path.write_text("[server]\ndata = 'here'\n", encoding="utf-8")
    assert load(path).data == tmp_path / "here"
    path.write_text("[server]\ndata = '/there'\n", encoding="utf-8")
    assert load(path).data == Path("/there")


def test_a_file_that_cannot_be_read_is_one_sentence_too(tmp_path):
    path = tmp_path / "edgeserver.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load(path)
