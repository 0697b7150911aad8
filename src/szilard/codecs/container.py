"""The file of a coded picture: `SZLC`, little-endian.

| field | type |
|---|---|
| magic | 4 bytes `SZLC` |
| format version | u8, 1 |
| flags | u8: 1 refined latents, 2 symbol check, 4 an alpha block follows, 8 float32 arithmetic |
| codec | u8 length, ASCII |
| weights | 8 bytes, `LearnedCodec.weights_id` |
| width, height | u32, u32: of the picture |
| tile, overlap | u16, u16: side of a tile (0: one tile holds all) and how much tiles overlap |
| bit depth, channels | u8, u8: 8 or 16; 1 (grey) or 3 (RGB) |
| extra blocks | u8 count, then u8 kind and LEB128 length each |
| tiles | LEB128 count; for each: pad of left, right, top, bottom (u8), latent height and width (u16), |
| | u8 count of streams, LEB128 length each |
| symbol checks | u32 for each tile (flag 2) |
| header check | u32, CRC-32 of everything before |
| payload | extra blocks, then streams |
| trailer | u32, CRC-32 of everything before |

A reader bounds every number before it allocates anything; the header's own check lets `info` trust it alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from szilard.whole_folder import whole_file

MAGIC, VERSION = b"SZLC", 1
MAX_SIDE = 65_535
MAX_TILES = 1 << 20
MAX_STREAMS = 64
MAX_PIXELS = 1 << 28  # of a picture: a small file may say a large one, and its reader makes room for it
MAX_LATENT = 1 << 12  # positions of a tile's hyper latent: 2^24 pixels at a stride of 64
REFINED, CHECKED, EXTRA, FLOAT32 = 1, 2, 4, 8
ALPHA = 1  # kind of an extra block: alpha, as a PNG


class CorruptFile(ValueError):
    """Bytes that are no whole file of this format."""


@dataclass(frozen=True)
class Tile:
    """One tile's streams.

    Attributes:
        pad: what was added at the left, right, top and bottom.
        shape: of its hyper latent.
        streams: y, z.
        check: CRC-32 of its symbols.
    """

    pad: tuple[int, int, int, int]
    shape: tuple[int, int]
    streams: tuple[bytes, ...]
    check: int = 0


@dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    Attributes:
        codec: its name.
        weights: id of the weights that wrote it.
        width, height: of the picture.
        tile, overlap: sides; 0: one tile.
        depth: bits of a sample.
        channels: 1 or 3.
        flags: see the module.
    """

    codec: str
    weights: bytes
    width: int
    height: int
    tile: int = 0
    overlap: int = 0
    depth: int = 8
    channels: int = 3
    flags: int = CHECKED


@dataclass(frozen=True)
class Bitstream:
    """A coded picture.

    Attributes:
        header: of the file.
        tiles: row by row.
        extra: blocks by kind.
    """

    header: Header
    tiles: tuple[Tile, ...]
    extra: dict[int, bytes] = field(default_factory=dict)

    @property
    def has_alpha(self) -> bool:
        """Whether its picture has transparency."""
        return ALPHA in self.extra

    @property
    def payload_bytes(self) -> int:
        """Of the streams alone."""
        return sum(len(stream) for tile in self.tiles for stream in tile.streams)

    @property
    def payload_bpp(self) -> float:
        """Bits of the streams per pixel."""
        return self.payload_bytes * 8 / (self.header.width * self.header.height)

    @property
    def bpp(self) -> float:
        """Bits of the file per pixel."""
        return len(self.to_bytes()) * 8 / (self.header.width * self.header.height)

    def to_bytes(self) -> bytes:
        """The file."""
        head, own = io.BytesIO(), self.header
        name = own.codec.encode("ascii")
        flags = (own.flags | EXTRA) if self.extra else own.flags & ~EXTRA
        head.write(MAGIC + bytes([VERSION, flags, len(name)]) + name + own.weights)
        head.write(struct.pack("<IIHHBB", own.width, own.height, own.tile, own.overlap, own.depth, own.channels))
        head.write(bytes([len(self.extra)]))
        for kind, block in self.extra.items():
            head.write(bytes([kind]) + _leb128(len(block)))
        head.write(_leb128(len(self.tiles)))
        for tile in self.tiles:
            head.write(struct.pack("<4BHHB", *tile.pad, *tile.shape, len(tile.streams)))
            for stream in tile.streams:
                head.write(_leb128(len(stream)))
        if flags & CHECKED:
            head.write(b"".join(struct.pack("<I", tile.check) for tile in self.tiles))
        found = head.getvalue()
        found += struct.pack("<I", zlib.crc32(found))
        found += b"".join(self.extra.values()) + b"".join(stream for tile in self.tiles for stream in tile.streams)
        return found + struct.pack("<I", zlib.crc32(found))

    def save(self, target: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            ValueError: it cannot be written.
        """
        data = self.to_bytes()
        with whole_file(target) as file:
            file.write(data)

    @classmethod
    def load(cls, source: Path) -> Bitstream:
        """Read a file.

        Raises:
            CorruptFile: see `from_bytes`.
            ValueError: there is no such file, or it cannot be read.
        """
        if not is_coded(source):
            raise CorruptFile(f"{str(source)!r} is no picture of a learned codec: it does not begin with SZLC.")
        return cls.from_bytes(source.read_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Bitstream:
        """Read a file.

        Raises:
            CorruptFile: anything else than a whole file of version 1.
        """
        reader = _Reader(data)
        header, extra, tiles = _read_header(reader)
        expected = reader.place + 4 + sum(size for _, size in extra) + sum(sum(one[2]) for one in tiles)
        if len(data) < expected:
            raise CorruptFile(f"the file is cut off: it has {len(data):,} of {expected:,} bytes.")
        if len(data) > expected:
            raise CorruptFile(f"the file is {len(data) - expected:,} bytes too long.")
        if struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
            raise CorruptFile("the file is damaged: its checksum does not match.")
        blocks = {kind: reader.take(size) for kind, size in extra}
        whole = []
        for pad, shape, sizes, check in tiles:
            whole.append(Tile(pad, shape, tuple(reader.take(size) for size in sizes), check))
        return cls(header, tuple(whole), blocks)


def is_coded(source: Path) -> bool:
    """Whether a file begins as one of this format; its first bytes are read alone.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with source.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ValueError(f"{str(source)!r} cannot be read ({error.strerror}).") from None


def read_header(file: BinaryIO, limit: int = 1 << 26) -> Header:
    """The header of an open file alone.

    Raises:
        CorruptFile: it is none.
    """
    return _read_header(_Reader(file.read(limit)))[0]


_Entry = tuple[tuple[int, int, int, int], tuple[int, int], list[int], int]


def _read_header(reader: _Reader) -> tuple[Header, list[tuple[int, int]], list[_Entry]]:
    if reader.take(4) != MAGIC:
        raise CorruptFile("this is no picture of a learned codec: it does not begin with SZLC.")
    version, flags, length = reader.take(3)
    if version != VERSION:
        raise CorruptFile(f"the file has format version {version}; this release reads version {VERSION}.")
    if flags & ~(REFINED | CHECKED | EXTRA | FLOAT32):
        raise CorruptFile(f"the file uses features that this release does not know (flags {flags}).")
    name = reader.take(length)
    if not length or not all(33 <= byte < 127 for byte in name):
        raise CorruptFile("the file is damaged: its codec has no readable name.")
    weights = reader.take(8)
    width, height, tile, overlap, depth, channels = struct.unpack("<IIHHBB", reader.take(14))
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise CorruptFile(f"the file says {width} x {height} pixels: sides are 1 to {MAX_SIDE}, {MAX_PIXELS:,} in all.")
    if depth not in (8, 16) or channels not in (1, 3):
        raise CorruptFile(f"the file says {channels} channels of {depth} bits: there are 1 or 3, of 8 or 16.")
    if tile and (overlap >= tile or tile < 64):
        raise CorruptFile(f"the file says tiles of {tile} that overlap by {overlap}.")
    extra = [(reader.byte(), reader.leb128()) for _ in range(reader.byte())]
    if bool(extra) != bool(flags & EXTRA) or len({kind for kind, _ in extra}) < len(extra):
        raise CorruptFile("the file is damaged: its extra blocks are not what its flags say.")
    count = reader.leb128()
    if not 1 <= count <= MAX_TILES or count * 9 > len(reader.data):
        raise CorruptFile(f"the file says {count:,} tiles, more than it has room for.")
    entries: list[_Entry] = []
    for _ in range(count):
        left, right, top, bottom, rows, columns, streams = struct.unpack("<4BHHB", reader.take(9))
        if streams > MAX_STREAMS or not rows or not columns or rows * columns > MAX_LATENT:
            raise CorruptFile(f"the file says {streams} streams and a latent of {rows} x {columns}.")
        sizes = [reader.leb128() for _ in range(streams)]
        entries.append(((left, right, top, bottom), (rows, columns), sizes, 0))
    if flags & CHECKED:
        entries = [(*entry[:3], struct.unpack("<I", reader.take(4))[0]) for entry in entries]
    checked = reader.place
    if struct.unpack("<I", reader.take(4))[0] != zlib.crc32(reader.data[:checked]):
        raise CorruptFile("the file is damaged: its header's checksum does not match.")
    return Header(name.decode("ascii"), weights, width, height, tile, overlap, depth, channels, flags), extra, entries


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if self.place + size > len(self.data):
            raise CorruptFile(f"the file is cut off after {len(self.data):,} bytes.")
        found = self.data[self.place : self.place + size]
        self.place += size
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def leb128(self) -> int:
        """An unsigned number of up to 35 bits."""
        found = 0
        for shift in range(0, 35, 7):
            byte = self.byte()
            found |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    break  # the same number has a shorter form, which is the only one that we write
                return found
        raise CorruptFile("the file is damaged: a length in it is none.")


def _leb128(number: int) -> bytes:
    found = bytearray()
    while True:
        number, low = number >> 7, number & 127
        found.append(low | (128 if number else 0))
        if not number:
            return bytes(found)
