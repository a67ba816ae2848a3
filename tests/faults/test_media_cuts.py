"""Uploads in parts and a box that is killed, as a program: what was acknowledged is there, and the rest goes on."""

from __future__ import annotations

import random
import socket

from tests.faults.test_disk import register

UPLOAD = "/_matrix/media/v3/upload"
DATA = random.Random(8).randbytes(3_000_000)


def part(offset: int, complete: bool = False) -> dict[str, str]:
    return {
        "content-type": "application/partial-upload",
        "upload-offset": str(offset),
        "upload-complete": "?1" if complete else "?0",
    }


def test_an_upload_in_parts_outlives_the_death_of_the_box(small_box, tmp_path):
    token = register(small_box)
    headers = {"content-type": "image/png", "upload-complete": "?0", "upload-length": str(len(DATA))}
    begun = small_box.request("POST", UPLOAD, DATA[:1_000_000], token, headers=headers)
    assert begun.status == 201
    location = begun.headers["location"]
    assert small_box.request("PATCH", location, DATA[1_000_000:1_700_000], token, headers=part(1_000_000)).status == 204
    small_box.kill()
    small_box.start()
    told = small_box.request("GET", location, None, token)
    assert told.json == {"received": 1_700_000, "complete": False}
    done = small_box.request("PATCH", location, DATA[1_700_000:], token, headers=part(1_700_000, complete=True))
    assert done.status == 200
    small_box.kill()
    small_box.start()
    assert small_box.request("GET", location, None, token).json["content_uri"] == done.json["content_uri"]
    place = done.json["content_uri"].removeprefix("mxc://")
    assert small_box.request("GET", f"/_matrix/client/v1/media/download/{place}", None, token).body == DATA
    files = [file for file in (tmp_path / "data" / "media").rglob("*") if file.is_file()]
    assert [file.stat().st_size for file in files] == [len(DATA)]
    assert small_box.troubles() == []


def test_parts_heads_and_broken_downloads_over_a_real_connection(small_box):
    token = register(small_box)
    uri = small_box.request("POST", UPLOAD, DATA, token, headers={"content-type": "video/mp4"}).json["content_uri"]
    path = "/_matrix/client/v1/media/download/" + uri.removeprefix("mxc://")
    for _ in range(5):  # who leaves amid a download
        with socket.create_connection(("127.0.0.1", int(small_box.url.rpartition(":")[2]))) as wire:
            wire.sendall(f"GET {path} HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            assert wire.recv(1000).startswith(b"HTTP/1.1 200")
    part_of = small_box.request("GET", path, None, token, headers={"range": "bytes=2999990-"})
    assert (part_of.status, part_of.body, part_of.headers["content-range"]) == (206, DATA[-10:], "bytes 2999990-2999999/3000000")
    beyond = small_box.request("GET", path, None, token, headers={"range": "bytes=3000000-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, "bytes */3000000")
    head = small_box.request("HEAD", path, None, token)
    assert (head.status, head.headers["content-length"], head.body) == (200, "3000000", b"")
    held = small_box.request("GET", path, None, token, headers={"if-none-match": head.headers["etag"]})
    assert (held.status, held.body) == (304, b"")
    assert small_box.request("GET", path, None, token).body == DATA
    assert small_box.troubles() == []


def test_what_came_of_a_part_before_its_connection_broke_need_not_come_again(small_box):
    token = register(small_box)
    headers = {"content-type": "image/png", "upload-complete": "?0", "upload-length": str(len(DATA))}
    location = small_box.request("POST", UPLOAD, b"", token, headers=headers).headers["location"]
    lines = [f"PATCH {location} HTTP/1.1", "Host: a.test", f"Authorization: Bearer {token}", f"Content-Length: {len(DATA)}"]
    lines += [f"{name}: {value}" for name, value in part(0, complete=True).items()]
    with socket.create_connection(("127.0.0.1", int(small_box.url.rpartition(":")[2]))) as wire:
        wire.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + DATA[:1_400_000])
    told = small_box.request("GET", location, None, token).json
    assert 1_000_000 <= told["received"] <= 1_400_000
    done = small_box.request("PATCH", location, DATA[told["received"] :], token, headers=part(told["received"], complete=True))
    assert done.status == 200
    path = "/_matrix/client/v1/media/download/" + done.json["content_uri"].removeprefix("mxc://")
    assert small_box.request("GET", path, None, token).body == DATA
    assert small_box.troubles() == []
