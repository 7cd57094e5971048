"""Picture files of every kind that Pillow reads, from bytes to pixels."""

import contextlib
import io
import stat
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from tinyalex.errors import ArgumentError, DataError, reason

# Left out of what Pillow opens: PostScript and Windows' metafiles run programs; for BUFR, GRIB, HDF5 and MPEG
# there is no decoder; the others hold measurements, or thumbnails of other files.
LEFT_OUT = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS", "MCIDAS", "SPIDER", "IPTC", "XVTHUMB"}
BICUBIC = Image.Resampling.BICUBIC
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@lru_cache(1)
def formats():
    """Pillow's names of the formats that are read, and the suffixes of their files (".jpg").

    HEIC belongs to them where the package pillow-heif is installed.
    """
    Image.init()
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    # First those that most files are of; last Targa, which has no signature and could be taken for others.
    order = {"JPEG": -2, "PNG": -1, "TGA": 1}
    names = sorted((name for name in Image.OPEN if name not in LEFT_OUT), key=lambda name: order.get(name, 0))
    known = {*names, "MPO"}  # several JPEGs in one file, of which the first counts
    return tuple(names), frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in known)


LONGEST = 8  # times its shorter side, of a picture that is kept whole


def read_picture(data, size=256, exif=True, whole=False):
    """The middle of a picture, scaled to uint8 (3, size, size), from the bytes of its file.

    Scaling the centre square to size x size is the paper's two steps, shorter side to 256 and centre crop, in
    one; smaller pictures are enlarged. Bicubic, averaging over the pixels that fall together. A JPEG of twice
    the size or more is decoded straight at 1/2, 1/4 or 1/8 (Image.draft: the decoder skips high frequencies),
    never below size.
    exif: turn the picture upright, as its EXIF orientation says. The 2012 code did not, for ILSVRC's pictures
    (Pillow turns TIFFs in any case). An EXIF block that cannot be read counts as none.
    whole: the whole picture instead, uint8 (3, H, W), its shorter side scaled to size; ArgumentError for one
    whose longer side is more than 8 times that.
    Grey, palette and CMYK pictures become RGB; transparent ones are laid on white; of an animation the first
    frame counts. 16 bits per pixel are taken to count from 0 to 65535, 12 bits from 0 to 4095. The range of
    floating-point numbers, of signed and of 32-bit integers is not known: ArgumentError.
    Raises what Pillow raises for a damaged file, and for one with more than Image.MAX_IMAGE_PIXELS pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=formats()[0]) as image:
            image.draft(None, (size, size))
            image.load()
            turn = UPRIGHT.get(_orientation(image)) if exif else None
            image = _rgb(image)
    w, h = image.size
    side = min(w, h)
    if whole:
        if max(w, h) > LONGEST * side:
            raise ArgumentError(f"{w} × {h} pixels: the longer side is more than {LONGEST} times the shorter")
        scaled = image.resize((max(size, round(w * size / side)), max(size, round(h * size / side))), BICUBIC)
    else:
        box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
        scaled = image.resize((size, size), BICUBIC, box)
    if turn is not None:
        scaled = scaled.transpose(turn)
    return np.asarray(scaled).transpose(2, 0, 1)


def shorter_side(data):
    """Return the shorter side, in pixels, of a picture that `read_picture` has read; nothing is decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=formats()[0]) as image:
            return min(image.size)


def read_file(path, size=256, exif=True):
    """As `read_picture`, from a file.  Raises DataError, naming the file, whatever is wrong with it."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ArgumentError(f"found {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}")
        return read_picture(path.read_bytes(), size, exif)
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise DataError(f"{path}: expected a picture: {reason(error)}") from error


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # whatever Pillow makes of a damaged block: the pixels are whole
        return None


def _rgb(image):
    if image.mode == "F":
        raise ArgumentError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image):
    """Scale grey levels of 16 or 12 bits to uint8 (H, W); Pillow's own conversion clips them at 255."""
    white_is_0 = False
    if image.format in ("PNG", "PPM", "JPEG2000"):
        largest = 65535  # Pillow has scaled them to it, where the file's own largest is another
    elif image.format == "TIFF" and image.mode.startswith("I;16"):
        largest = 2 ** image.tag_v2[258][0] - 1  # BitsPerSample
        white_is_0 = image.tag_v2.get(262) == 0  # PhotometricInterpretation
    else:
        raise ArgumentError("pixels that are signed or 32-bit integers, whose range is not known")
    levels = np.asarray(image).astype(np.uint32)
    levels = largest - levels if white_is_0 else levels
    return (levels * 255 // largest).astype(np.uint8)
