"""Video files decoded by FFmpeg (PyAV), forward and no further than needed; imported when a video first needs it.

docs/decisions/113-video.md says where the bounds come from.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edgefuse.errors import InputError, needing
from edgefuse.runtime.backends.backend import Array
from edgefuse.runtime.preprocess.files import Encoded, decoding, opened
from edgefuse.runtime.preprocess.movie_samples import MAX_BOX_BYTES, listed_samples

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

A_WHOLE_VIDEO = "a whole MP4, MOV, WebM, Matroska, AVI or GIF file"
LATE_S = 1e-3
"""We look so much later than at the multiples of the model's interval: files round the times of their frames to it."""
MAX_FILE_BYTES = 4 << 30
MAX_READ_BYTES = 512 << 20
"""What we read of a file, which may be larger."""
MAX_PIXELS = 4096 * 2304
"""Of a frame."""
_NO_SUCH = f"a frame of more than {MAX_PIXELS / 1e6:.1f} million pixels, or of an impossible size"
MAX_DECODED_PIXELS = 1 << 32
"""Of all frames up to the last one that is taken: more than a minute of 1920 x 1080 at 30 frames per second."""
MAX_PACKETS = 1 << 16

MAX_SAMPLES = 1 << 24
"""That an MP4 may list, in all of its tracks; FFmpeg takes 35 bytes for each."""

# What people record, in codings that FFmpeg decodes by itself. Not the other formats: some open further files and
# addresses, and nobody would notice if a decoder of a game's cut scenes were wrong.
_FORMATS = {b"\x1aE\xdf\xa3": "matroska", b"RIFF": "avi", b"GIF8": "gif"}
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")  # that an MP4 or MOV begins with
_CODECS = (
    *("h264", "hevc", "av1", "libdav1d", "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mpeg1video"),
    *("h263", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "ffvhuff", "utvideo", "png", "qtrle", "rawvideo", "gif"),
)
_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC: the picture on a record
_DECODING = {"max_pixels": str(MAX_PIXELS), "threads": "1"}
_OPENING = _DECODING | {
    "codec_whitelist": ",".join(_CODECS),
    "protocol_whitelist": "none",
}


def decoded(
    raw: Encoded, name: str, where: str, count: int, rate: float, convert: Callable[[Array], Array]
) -> list[Array]:
    """Return what is shown of a video file at each multiple of `1 / rate` seconds after its first frame began.

    Args:
        raw: a path, or the content of a file.
        name: of the modality.
        where: the video comes from, for messages.
        count: of frames to return; fewer if the clip ends before.
        rate: of these frames, per second.
        convert: makes of a frame, uint8 [height, width, 3], what is returned of it.
    """
    with needing("reading video files", extra="media"):
        import av
    what = f"the video '{name}'"
    taken: list[Array] = []
    with opened(raw, name, MAX_FILE_BYTES) as (file, size), decoding(what, where, A_WHOLE_VIDEO):
        kind = _format(file, size, what, where)
        try:
            with av.open(_Bounded(file, what, where), "r", kind, options=_OPENING, metadata_errors="ignore") as video:
                for frame, until in _shown(video, what, where):
                    if not taken or len(taken) / rate + LATE_S < until:
                        pixels = convert(_upright(frame))
                        taken.append(pixels)
                    while len(taken) < count and len(taken) / rate + LATE_S < until:
                        taken.append(pixels)
                    if len(taken) == count:
                        break
        except av.error.FFmpegError as error:
            said = _NO_SUCH if error.errno == errno.EINVAL else error.strerror or type(error).__name__
            raise InputError(f"{what} cannot be decoded", got=f"{said} in {where}", expected=A_WHOLE_VIDEO) from error
    if not taken:
        raise InputError(f"{what} is empty", got=f"0 frames in {where}", expected="at least one")
    return taken


def _format(file: BinaryIO, size: int, what: str, where: str) -> str:
    """Return what FFmpeg calls the format of a file, which is wound back."""
    head = file.read(8)
    file.seek(0)
    kind = _FORMATS.get(head[:4]) or ("mov" if head[4:] in _BOXES else "")
    if not kind:
        raise InputError(f"{what} cannot be decoded", got=f"no such video in {where}", expected=A_WHOLE_VIDEO)
    samples = listed_samples(file, size) if kind == "mov" else 0
    if samples is None or samples > MAX_SAMPLES:
        raise InputError(
            f"{what} has too many parts",
            got=f"{'too many boxes' if samples is None else f'tables of {samples} samples'} in {where}",
            expected=f"at most {MAX_SAMPLES} samples, and {MAX_BOX_BYTES >> 20} MiB of boxes besides the media data",
            fix="cut it first",
        )
    return kind


def _shown(video: InputContainer, what: str, where: str) -> Iterator[tuple[VideoFrame, float]]:
    """Yield each frame with the seconds, after the first one began, until which it is shown."""
    stream = _stream(video, what, where)
    tick, pause = float(stream.time_base or 0), 1 / float(stream.guessed_rate or 25)
    held: VideoFrame | None = None
    first, end, pixels = None, 0.0, 0
    for packets, packet in enumerate(video.demux(stream)):
        if packets > MAX_PACKETS or pixels > MAX_DECODED_PIXELS:
            raise InputError(
                f"{what} goes on for too long before the last frame that is taken",
                got=f"{packets} frames with {pixels // 10**6} million pixels in {end:.1f} s in {where}",
                expected=f"at most {MAX_PACKETS} with {MAX_DECODED_PIXELS // 10**6} million",
                fix="make its frames fewer or smaller",
            )
        if packet.is_corrupt:
            raise InputError(f"{what} cannot be decoded", got=f"a cut frame in {where}", expected=A_WHOLE_VIDEO)
        for frame in packet.decode():
            pixels += frame.width * frame.height
            first = frame.pts if first is None else first
            start = end if first is None or frame.pts is None else (frame.pts - first) * tick
            if held is not None:
                yield held, start
            held, end = frame, start + ((frame.duration or 0) * tick or pause)
    if held is not None:
        yield held, end


def _stream(video: InputContainer, what: str, where: str) -> VideoStream:
    """Return the first stream of pictures that move, ready to be decoded."""
    stream = next((one for one in video.streams.video if not one.disposition.value & _COVER), None)
    if stream is None:
        kinds = ", ".join(sorted({one.type for one in video.streams})) or "nothing"
        raise InputError(
            f"{what} has no pictures that move", got=f"{kinds} in {where}", expected="a stream of pictures"
        )
    coding = stream.codec_context.name if stream.codec_context else "one that nothing decodes"
    if coding not in _CODECS:
        raise InputError(
            f"{what} is in a coding that is not read",
            got=f"{coding} in {where}",
            expected="H.264, HEVC, AV1, VP8, VP9, MPEG-4, MJPEG, ProRes or another common one",
            fix="convert it to H.264 or VP9",
        )
    if stream.width * stream.height > MAX_PIXELS:
        raise InputError(
            f"{what} is too large",
            got=f"{stream.width} x {stream.height} pixels in {where}",
            expected=f"at most {MAX_PIXELS / 1e6:.1f} million",
            fix="make it smaller first",
        )
    stream.codec_context.options = _DECODING
    return stream


def _upright(frame: VideoFrame) -> Array:
    """Return a frame in RGB, uint8 [height, width, 3], turned and mirrored as its file says that it is to be seen."""
    pixels: Array = frame.to_ndarray(format="rgb24", threads=1)  # a child forked later has none to wait for
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # Of ISO/IEC 14496-12, 6.2.2; what it says beyond quarter turns is left out.
    across, down, other_across, other_down = np.frombuffer(matrix, np.int32)[[0, 4, 3, 1]].tolist()
    if abs(other_down) > abs(across):
        across, down, pixels = other_across, other_down, pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


class _Bounded:
    """A file of which no more is read than we bound, as FFmpeg takes it."""

    def __init__(self, file: BinaryIO, what: str, where: str) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read, self._what, self._where = file.read, what, where
        self._left = MAX_READ_BYTES

    def read(self, size: int) -> bytes:
        """Read on."""
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{self._what} is too large",
                got=f"more than {MAX_READ_BYTES >> 20} MiB before the last frame that is taken in {self._where}",
                expected="less",
                fix="cut it, or make its frames smaller",
            )
        return self._read(size)
