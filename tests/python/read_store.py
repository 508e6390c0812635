"""Prints the rows of a store: `read_store.py store.rs DIR`, with the reader that the documentation in store.rs shows.

A line a row: its id and its numbers, decoded, as the bits of f32. Fails when a checksum is not zlib's.
"""

import glob
import json
import re
import sys
import zlib

import numpy as np

source, directory = sys.argv[1:]
lines = open(source, encoding="utf-8").read().split("//! ```python\n")[1].split("//! ```")[0]
exec(re.sub("^//! ?", "", lines, flags=re.M))


def decoded(path, metadata):
    rows, dim, encoding = tensor(path, "rows"), int(metadata["dim"]), metadata["encoding"]
    if encoding == "bf16":
        return (rows.astype(np.uint32) << 16).view(np.float32)
    if encoding == "int8_block":
        scales = np.repeat(tensor(path, "scales"), int(metadata["block"]), axis=1)[:, :dim]
        return rows.astype(np.float32) * scales
    if encoding == "one_bit":
        signs = np.unpackbits(rows, axis=1, bitorder="little")[:, :dim]
        return np.where(signs == 1, 1, -1).astype(np.float32) * tensor(path, "scales")
    return rows.astype(np.float32)


for path in sorted(glob.glob(f"{directory}/*.*.safetensors")):
    raw = open(path, "rb").read()
    metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert json.loads(metadata["layers"])[1] == ["head", 47] and json.loads(metadata["sketch"])["seed"] == "7"
    checksums = tensor(path, "checksums")
    for part, checksum in zip(["ids", "scales", "rows"], checksums):
        absent = part == "scales" and metadata["encoding"] in ("f32", "f16", "bf16")
        assert zlib.crc32(b"" if absent else tensor(path, part).tobytes()) == checksum, part
    front = raw.index(checksums.tobytes()) + 12
    assert zlib.crc32(raw[:front]) == checksums[3]
    rows = decoded(path, metadata)
    assert rows.dtype == np.float32
    for example, row in zip(tensor(path, "ids"), rows):
        print(example, *np.ascontiguousarray(row).view(np.uint32))
