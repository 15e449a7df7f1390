"""Writes tests/golden/snapshot/version1.snapshot from docs/formats/snapshot.md, without the program that it tests.

    python snapshot.py        needs the standard library only
"""

import struct
import zlib
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "snapshot" / "version1.snapshot"


def sealed(record):
    """A record followed by its CRC-32."""
    return record + struct.pack("<I", zlib.crc32(record))


def tensor(snapshot, name, dtype, purpose, shape, data):
    """The snapshot with one more tensor: a sealed record padded to 64 bytes, and the sealed data."""
    name = name.encode()
    record = struct.pack("<BBBBIQ", 1, dtype, purpose, len(shape), len(name), len(data))
    record += struct.pack(f"<{len(shape)}Q", *shape) + name
    record += b"\0" * (-(len(snapshot) + len(record) + 4) % 64)
    return snapshot + sealed(record) + sealed(data)


def main():
    """Writes a snapshot with a tensor of each dtype."""
    snapshot = sealed(b"BITNETSN" + struct.pack("<I", 1))
    numbers = [0.5, -1.25, 3.0e38, -0.0, 1.0e-45, 7.0]
    snapshot = tensor(snapshot, "weights/f32", 1, 1, [2, 3], struct.pack("<6f", *numbers))
    snapshot = tensor(snapshot, "half", 2, 3, [3], struct.pack("<3e", 1.0, -2.5, 65504.0))
    snapshot = tensor(snapshot, "brain", 3, 4, [2, 1], struct.pack("<2H", 0x3FC0, 0xC000))
    snapshot = tensor(snapshot, "bytes", 4, 6, [4], struct.pack("<4b", -128, -1, 0, 127))
    snapshot = tensor(snapshot, "nibbles", 5, 2, [3], bytes([0x2F, 0x08]))
    snapshot = tensor(snapshot, "two bits", 6, 5, [5], bytes([0b01_00_11_10, 0b11]))
    snapshot = tensor(snapshot, "signs", 7, 0, [9], bytes([0b10100101, 1]))
    snapshot = tensor(snapshot, "trits: −1, 0, 1", 8, 1, [6], bytes([0 + 3 + 18 + 0 + 81, 2]))
    snapshot = tensor(snapshot, "one number", 1, 0, [], struct.pack("<f", 42.0))
    snapshot = tensor(snapshot, "", 1, 0, [0, 7], b"")
    end = struct.pack("<B3xIQ", 0, 10, len(snapshot) + 20)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(snapshot + sealed(end))


if __name__ == "__main__":
    main()
