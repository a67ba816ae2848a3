"""What the proxy keeps on disk, and how it is paired."""

import stat

import pytest

from edgeserver.app.wires import WireError
from edgeserver.paired.joining import JoinError
from edgeserver.paired.pairing import secret_of
from edgeserver.paired.state import StateError, open_state
from edgeserver.proxy.program import ProxyOptions, run
from tests.proxy.rig import BOX, PROXY
from transports.link.pairing import Paired, PairingFailed, PairingQR


def test_the_key_is_made_once_and_is_nobody_elses_business(tmp_path) -> None:
    first, second = open_state(tmp_path / "s", "proxy"), open_state(tmp_path / "s", "proxy")
    assert first.identity.public_key == second.identity.public_key
    assert stat.S_IMODE((tmp_path / "s" / "identity.key").stat().st_mode) == 0o600
    assert second.box is None


def test_a_pairing_outlives_a_restart_and_another_one_forgets_what_the_box_has_told(tmp_path) -> None:
    state = open_state(tmp_path, "proxy")
    state.pair(Paired("box.example", BOX.public_key))
    (state.told_folder / "deeper").mkdir(parents=True)
    (state.told_folder / "deeper" / "file").write_bytes(b"{}")
    again = open_state(tmp_path, "proxy")
    assert again.box == Paired("box.example", BOX.public_key)
    again.pair(Paired("other.example", PROXY.public_key))
    assert not again.told_folder.exists()
    again.pair(Paired("box.example", BOX.public_key))  # with nothing to forget


@pytest.mark.parametrize("content", [b"", b"[]", b'{"box": {"name": "x", "key": "AA"}}', b'{"box": 1}'])
def test_a_damaged_file_is_named(tmp_path, content) -> None:
    open_state(tmp_path, "proxy")
    (tmp_path / "proxy.json").write_bytes(content)
    with pytest.raises(StateError, match=r"proxy\.json is damaged"):
        open_state(tmp_path, "proxy")


def test_codes_and_qr_strings_are_told_apart() -> None:
    qr = PairingQR("box.example", BOX.public_key, b"s" * 16)
    assert secret_of(f" {qr.format()}\n") == qr
    assert secret_of("k7qm 2xpa") == "K7QM2XPA"
    with pytest.raises(PairingFailed):
        secret_of("hello")


async def test_a_proxy_that_is_not_paired_says_what_to_do(tmp_path) -> None:
    with pytest.raises(JoinError, match="--pair CODE"):
        await run(ProxyOptions("serial:/dev/null,2400", state=tmp_path), print)


async def test_a_wrong_code_or_line_is_one_sentence(tmp_path) -> None:
    with pytest.raises(JoinError, match="a pairing code looks like"):
        await run(ProxyOptions("serial:/dev/null,2400", pair="hello", state=tmp_path), print)
    with pytest.raises(WireError):
        await run(ProxyOptions("udp-listen:0.0.0.0:7710", state=tmp_path), print)
