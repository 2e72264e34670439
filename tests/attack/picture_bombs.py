"""Pictures that are small on disk and huge in memory or endless in time, and kinds that once were a bug of ours."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Bomb = tuple[str, Callable[[], bytes]]


def bombs() -> Iterator[Bomb]:
    """Yield what each is, and a function that makes it."""
    yield "EXIF that is no TIFF", lambda: exif_jpeg(b"Exif\0\0no TIFF at all")
    yield "EXIF of a TIFF without end", lambda: exif_jpeg(b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(256)) * 200)
    yield "LAB", lambda: tiff_lab()
    yield "16 bits, 13,300² pixels", lambda: png(13_300, 13_300, 16, 0)
    yield "16 bits, 8,100² pixels", lambda: png(8_100, 8_100, 16, 0)
    yield "RGB, 8,100² pixels", lambda: png(8_100, 8_100, 8, 2)
    yield "RGBA of 16 bits, 5,700² pixels", lambda: png(5_700, 5_700, 16, 6)
    yield "palette of 1 bit, 8,100² pixels", lambda: png(8_100, 8_100, 1, 3, png_chunk(b"PLTE", bytes(6)))
    yield "one row", lambda: png(60_000_000, 1, 8, 0)
    yield "one column", lambda: png(1, 1_000_000, 8, 0)
    yield "2³¹ - 1 squared", lambda: png(0x7FFFFFFF, 0x7FFFFFFF, 16, 6, rows=1)
    yield "chunks without end", lambda: png(8, 8, 8, 0, png_chunk(b"tEXt", b"a\0") * 1_500_000)
    yield "EXIF without end in PNG", lambda: png(8, 8, 8, 0, png_chunk(b"eXIf", b"II*\0\x08\0\0\0" + bytes(40 << 20)))
    yield "text that unpacks", lambda: png(8, 8, 8, 0, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20))))
    yield "segments without end", lambda: jpeg_segments(b"\xff\xe0\0\x02" * 3_000_000)
    yield "a JPEG that begins with 20 MB of nothing", lambda: jpeg_segments(b"\0" * (20 << 20))
    yield "2,000 scans", lambda: jpeg_scans(2_000)
    yield "65,500² pixels", lambda: jpeg_size(65_500, 65_500)
    yield "progressive, 65,500² pixels", lambda: jpeg_size(65_500, 65_500, progressive=True)
    yield "progressive, 8,200² pixels", lambda: flat("JPEG", 8_200, 8_200, progressive=True)
    yield "12,500² pixels, grey", lambda: flat("JPEG", 12_500, 12_500, mode="L")
    yield "comments in a plain PPM", lambda: b"P2 99 99 255\n" + b"#x\n" * 1_000_000
    yield "a large plain PPM", lambda: b"P3 3000 3000 255\n" + b"1 " * 27_000_000
    yield "PPM of odd depth", lambda: b"P6 3000 3000 200\n" + bytes(27_000_000)
    yield "PPM whose header is a comment", lambda: b"P6 #" + b"x" * 5_000_000
    yield "run lengths that only move", lambda: bmp_rle(4_000, 4_000, b"\0\2\0\0" * 5_000_000)
    yield "run lengths that fill", lambda: bmp_rle(30_000, 30_000, b"\0\2\xff\xff" * 400)
    yield "ends of lines", lambda: bmp_rle(4_000, 4_000, b"\1\5\0\0" * 4_000)
    yield "extensions without end", lambda: gif(b"!\xfe\0" * 3_000_000)
    yield "a comment without end", lambda: gif(b"!\xfe" + (b"\xff" + bytes(255)) * 100_000 + b"\0")
    yield "GIF of 65,535²", lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + gif()[10:]
    yield "one strip of CCITT", lambda: flat("TIFF", 8_000, 8_000, mode="1", compression="group4")
    yield (
        "one strip of LZW",
        lambda: flat("TIFF", 7_000, 7_000, compression="tiff_lzw", tiffinfo={278: 7_000}),
    )
    yield "a TIFF of 20 million fractions", lambda: tiff_of_tag(282, 5, 20_000_000)
    yield "a TIFF of 60 million strips", lambda: tiff_of_tag(273, 4, 60_000_000)
    yield "a TIFF that is turned in 100 million ways", lambda: tiff_of_tag(274, 3, 100_000_000)
    yield "WebP of 16,383²", lambda: flat_header("WEBP", 16_383)
    yield "WebP of 6,000²", lambda: flat("WEBP", 6_000, 6_000, lossless=True)
    yield "JPEG 2000 of 4,090²", lambda: flat("JPEG2000", 4_090, 4_090)
    yield "JPEG 2000 of 8,000², grey", lambda: flat("JPEG2000", 8_000, 8_000, mode="L")
    yield "boxes without end", lambda: jp2(b"\0\0\0\x08free" * 3_000_000)
    yield "AVIF of 5,000²", lambda: flat("AVIF", 5_000, 5_000, speed=10)
    yield "an animation of 2,000 frames", lambda: animation(2_000)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, between: bytes = b"", rows: int | None = None) -> bytes:
    """Return a black PNG whose rows are packed one by one."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pack = zlib.compressobj(1)
    row = bytes(1 + min((width * samples * depth + 7) // 8, 1 << 27))
    number = height if rows is None else rows
    many = max(1, (1 << 16) // len(row))  # a call for each row of one pixel would take long
    blocks = (row * min(many, number - begin) for begin in range(0, number, many))
    body = b"".join([*map(pack.compress, blocks), pack.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + between + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def flat(name: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    """Return a picture of one colour."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, name, **options)
    return buffer.getvalue()


def flat_header(name: str, side: int) -> bytes:
    """Return a small lossless WebP that says it is larger."""
    data = bytearray(flat(name, 8, 8, lossless=True))
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") & ~((1 << 28) - 1)
    data[at : at + 4] = (bits | (side - 1) << 14 | (side - 1)).to_bytes(4, "little")
    return bytes(data)


def exif_jpeg(block: bytes) -> bytes:
    data = flat("JPEG", 16, 16)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", min(len(block) + 2, 0xFFFF)) + block[:0xFFFD] + data[2:]


def tiff_lab() -> bytes:
    lab = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)).convert("RGB")
    buffer = io.BytesIO()
    Image.merge("LAB", lab.split()).save(buffer, "TIFF")
    return buffer.getvalue()


def tiff_of_tag(tag: int, kind: int, count: int) -> bytes:
    """Return a grey TIFF of 8 x 8 pixels, of which a tag lists very many numbers.

    Args:
        tag: its number.
        kind: of its numbers, as TIFF numbers them.
        count: how many.
    """
    whole = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}
    tags = [(number, 4, 1, value) for number, value in whole.items() if number != tag]
    begin, size = 72, {3: 2, 4: 4, 5: 8}[kind] * count
    entries = b"".join(struct.pack("<HHII", *each) for each in sorted([*tags, (tag, kind, count, begin)]))
    header = b"II*\0" + struct.pack("<I", begin + size) + bytes(64) + np.arange(size // 4, dtype="<u4").tobytes()
    return header + bytes(size % 4) + struct.pack("<H", len(tags) + 1) + entries + bytes(4)


def jpeg_segments(between: bytes) -> bytes:
    data = flat("JPEG", 16, 16)
    return data[:2] + between + data[2:]


def jpeg_scans(number: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    data = flat("JPEG", 4_000, 4_000, progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * number + data[-2:]


def jpeg_size(width: int, height: int, progressive: bool = False) -> bytes:
    """Return a small JPEG that says it is larger."""
    data = bytearray(flat("JPEG", 16, 16, progressive=progressive))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_rle(width: int, height: int, body: bytes) -> bytes:
    palette = bytes(1024)
    begin = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", begin + len(body), 0, 0, begin) + header + palette + body


def gif(between: bytes = b"") -> bytes:
    data = flat("GIF", 8, 8, mode="L")
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:at] + between + data[at:]


def jp2(boxes: bytes) -> bytes:
    data = flat("JPEG2000", 8, 8)
    at = data.index(b"jp2c") - 4
    return data[:at] + boxes + data[at:]


def animation(number: int) -> bytes:
    frames = [Image.new("L", (64, 64), shade % 251) for shade in range(number)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()
