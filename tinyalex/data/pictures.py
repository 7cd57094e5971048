"""Picture files of every common kind, from bytes to pixels."""

import io
import warnings

import numpy as np
from PIL import Image

from tinyalex.errors import ArgumentError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")  # Pillow knows more: PostScript runs programs


def read_picture(data, size=256):
    """The middle of a picture, scaled to uint8 (3, size, size), from the bytes of its file.

    Scaling the centre square to size x size is the paper's two steps, shorter side to 256 and centre crop, in
    one; smaller pictures are enlarged. Bicubic, averaging over the pixels that fall together. A JPEG of twice
    the size or more is decoded straight at 1/2, 1/4 or 1/8 (Image.draft: the decoder skips high frequencies),
    never below size.
    The EXIF orientation is ignored, as in 2012. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB;
    transparent ones are laid on white; of an animation the first frame counts.
    Raises what Pillow raises for a damaged file, and for one with more than Image.MAX_IMAGE_PIXELS pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (size, size))
            image = _rgb(image)
    w, h = image.size
    side = min(w, h)
    box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box)
    return np.asarray(square).transpose(2, 0, 1)


def _rgb(image):
    if image.mode.startswith("I"):  # 16 bits a pixel, 0-65535; Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ArgumentError("floating-point pixels, whose range is not known")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
