"""Chunks that claim to unpack to more than they are."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from .doors import edited, tiny_cube

ZSTD = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
BLOSC = {
    "name": "blosc",
    "configuration": {"typesize": 4, "cname": "zstd", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0},
}
CHUNKS = {
    "a zstd frame of a terabyte": (ZSTD, b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + b"\x01\x00\x00"),
    "a blosc chunk of 2 GiB": (BLOSC, bytes([2, 1, 0x33, 4]) + struct.pack("<III", 2**31 - 17, 2**20, 60) + bytes(44)),
    "gzip that is none": ({"name": "gzip", "configuration": {"level": 1}}, b"\x1f\x8b" + bytes(40)),
    "nothing": (ZSTD, b""),
}


@pytest.mark.parametrize("kind", CHUNKS)
def test_a_chunk_that_can_not_be_what_it_claims_ends_on_one_line(kind: str, tmp_path: Path, refused: Any) -> None:
    cube = tiny_cube(tmp_path / "cube.zarr")
    codec, chunk = CHUNKS[kind]
    with edited(cube / "ndvi" / "zarr.json") as metadata:
        metadata["codecs"].append(codec)
    (cube / "ndvi" / "c" / "0" / "0" / "0").write_bytes(chunk)
    for words in (("info", cube), ("gaps", cube, "--workers", "1", "-o", tmp_path / "gaps")):
        refused(*words, code=1)
