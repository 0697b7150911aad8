"""VVC (H.266) intra through ffmpeg's libvvenc, as a codec of an evaluation.

VVenC is Fraunhofer's encoder of the standard, some percent behind the reference software VTM that papers compare with;
and it writes 4:2:0, where published curves of VTM are often 4:4:4. An ffmpeg that can do it comes with the package
imageio-ffmpeg.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from szilard.codecs.container import MAX_SIDE
from szilard.codecs.images import Picture
from szilard.codecs.picture_codec import CodedPicture
from szilard.options import check_choice, check_number

QUANTISERS = (42, 37, 32, 27, 22)  # of a curve, unless told otherwise
PRESETS = ("faster", "fast", "medium", "slow", "slower")
_SIZE = struct.Struct("<HH")  # before the stream, whose own size is even
_COLOURS = "color_matrix=bt709:{0}_range=tv"


@dataclass(frozen=True)
class VVCCodec:
    """One intra picture, 10 bits, 4:2:0, BT.709.

    Attributes:
        quantiser: QP, 0 to 63; more is smaller.
        preset: of VVenC; medium takes some 10 s for 768 x 512.
    """

    quantiser: int
    preset: str = "medium"

    name: ClassVar[str] = "vvc"
    parameters: ClassVar[int] = 0

    def __post_init__(self) -> None:
        check_number("quantiser", self.quantiser, low=0, high=63, integer=True)
        check_choice("preset", self.preset, PRESETS)
        _program()

    @property
    def point(self) -> str:
        """QP."""
        return str(self.quantiser)

    def identity(self) -> str:
        """QP, preset, and the ffmpeg that writes."""
        return f"vvc {self.quantiser} {self.preset} {_version(_program())}"

    def encode(self, picture: Picture) -> CodedPicture:
        """Height and width, four bytes, and the stream.

        Raises:
            ValueError: 16 bits, or transparency.
        """
        if picture.depth != 8 or picture.alpha is not None:
            raise ValueError("vvc is written of 8-bit pictures without transparency: convert the picture.")
        height, width = picture.size
        samples = np.pad(picture.samples, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        size = f"{samples.shape[1]}x{samples.shape[0]}"
        stream = _run(
            [
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-i", "-", "-frames:v", "1"),
                *("-vf", f"scale=out_{_COLOURS.format('out')}", "-pix_fmt", "yuv420p10le", "-c:v", "libvvenc"),
                *("-qp", str(self.quantiser), "-preset", self.preset, "-threads", "1", "-f", "vvc", "-"),
            ],
            samples.tobytes(),
        )
        return CodedPicture(_SIZE.pack(height, width) + stream, len(stream))

    def decode(self, data: bytes) -> Picture:
        """The picture.

        Raises:
            ValueError: no file of `encode`.
        """
        if len(data) <= _SIZE.size:
            raise ValueError("these bytes are no whole vvc file.")
        height, width = _SIZE.unpack(data[: _SIZE.size])
        if not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
            raise ValueError(f"these bytes are no vvc file: they say {width} x {height}.")
        frame = _run(
            [
                *("-f", "vvc", "-threads", "1", "-i", "-", "-frames:v", "1"),
                *("-vf", f"scale=in_{_COLOURS.format('in')}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"),
            ],
            data[_SIZE.size :],
        )
        whole = height + height % 2, width + width % 2
        if len(frame) != 3 * whole[0] * whole[1]:
            raise ValueError("these bytes are no whole vvc file.")
        samples = np.frombuffer(frame, dtype=np.uint8).reshape(*whole, 3)
        return Picture(np.ascontiguousarray(samples[:height, :width]))

    def estimated_bits(self, picture: Picture) -> float | None:
        """None: a standard has no likelihoods."""
        return None


@lru_cache
def _program() -> str:
    """An ffmpeg with libvvenc.

    Raises:
        ValueError: there is none.
    """
    candidates = []
    try:
        import imageio_ffmpeg

        candidates.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ModuleNotFoundError, RuntimeError):
        pass
    candidates.append(shutil.which("ffmpeg"))
    for program in filter(None, candidates):
        listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
        if "libvvenc" in listed.stdout:
            return str(program)
    raise ValueError("vvc needs an ffmpeg with libvvenc: pip install imageio-ffmpeg")


@lru_cache
def _version(program: str) -> str:
    return subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


def _run(arguments: list[str], data: bytes) -> bytes:
    command = [_program(), "-hide_banner", "-loglevel", "error", *arguments]
    found = subprocess.run(command, input=data, capture_output=True, check=False)
    if found.returncode or not found.stdout:
        reason = found.stderr.decode(errors="replace").strip().split("\n")[0] or "it wrote nothing"
        raise ValueError(f"ffmpeg could not code the picture: {reason}.")
    return found.stdout
