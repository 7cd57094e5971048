"""What AlexNet does not have: an operation a file, and beside them `plain` and `reference` of these."""

from tinyalex.ops.later import activation as _activation
from tinyalex.ops.later import batch_norm as _batch_norm
from tinyalex.ops.later import global_avg_pool as _global_avg_pool
from tinyalex.ops.later import local as _local
from tinyalex.ops.later.activation import *
from tinyalex.ops.later.batch_norm import *
from tinyalex.ops.later.global_avg_pool import *
from tinyalex.ops.later.local import *

__all__ = [*_activation.__all__, *_batch_norm.__all__, *_global_avg_pool.__all__, *_local.__all__]
