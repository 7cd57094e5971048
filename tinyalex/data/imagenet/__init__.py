"""ImageNet, or any folder of class folders: pictures to shards, and the shards to read.

prepare() makes of each picture its middle 256 x 256 (paper, section 2) and writes, under one folder:

    index.json               format, classes, and per split the count and the shards with size and SHA-256
    train-000.npy ...        uint8 (n, 3, 256, 256), pictures of all classes mixed by a seeded permutation
    train-labels.npy         int32, for the pictures of all shards in order; the same for val
    mean.npy                 float32 (3, 256, 256), the mean picture of the train split
    unreadable.txt           one line for each picture that was skipped, with the reason (if there were any)
    lock                     held by the process that prepares

A picture takes 192 KiB: ILSVRC-2012 takes 252 GB and 10 GB. It is kept channel first because that makes a
random crop and flip three times as fast as pixel-interleaved (measured: 5 and 15 ms for 128 pictures).

prepare(whole=True) keeps whole pictures, their shorter side of `size` pixels, one after the other in shards
of uint8 (bytes,); train-sizes.npy holds int32 (N, 2), the height and width of each, and mean.npy the mean
colour at every pixel. With a side of 512 a photograph of 4 : 3 takes 1.05 MB, a million of them 1.05 TB; with
384 0.59 TB; with 256 0.26 TB, where the squares take 0.20 TB.
"""

from tinyalex.data.imagenet.preparing import Prepared, prepare
from tinyalex.data.imagenet.shards import Shards, open, open_all
from tinyalex.data.imagenet.sources import find_pictures

__all__ = ["Prepared", "Shards", "find_pictures", "open", "open_all", "prepare"]
