"""How the network is trained: rates, their schedule, and what is done to the pictures (paper, section 5).

Where the paper's text and the 2012 code differ, the field says so; the numbers in brackets are those of the
eleven differences (the other six are in `tinyalex.models.alexnet.Network`).
"""

from typing import NamedTuple

from tinyalex.data import augment
from tinyalex.errors import DataError
from tinyalex.fields import checked


class Change(NamedTuple):
    """From the start of this epoch: a new rate, factors on single rates (`SGD.scale`), a new colour noise."""

    epoch: int
    rate: float | None = None
    scale: dict | None = None
    noise: float | None = None


class Recipe(NamedTuple):
    """Batch 128, momentum 0.9, decay 0.0005, rate 0.01 and about 90 epochs: paper and code agree.

    bias_rate_factor, decay_biases (5): the code's biases learn twice as fast at first (epsB .02) and are
        not decayed (src/layer.cu:565); the paper gives one rate and one rule for all weights.
    drop_bias_rate (5): whether the biases' rate drops with the weights'.  The code's log lowers epsW alone
        ("set epsw to …"), and layer-params-145.cfg, as left at the end, has epsW 1e-5 beside epsB .02.  (In
        layer-params-145-2010.cfg epsB is .002; when it was lowered is not recorded.)  Caffe drops both.
    schedule (6, 11): None divides the rate by 10 when the validation error has stopped improving, three times
        (section 5: by hand; here: no new best in `patience` epochs).  The code's log (at the end of
        layer-params-145-2010.cfg; in layer-params-145.cfg the same with epochs 25, 51, 67, 72, 79) is a list
        of changes, in which conv1's weights are slowed, then conv1 is frozen, and the colour noise ends, for
        the last 25 epochs; of these the paper says nothing.
    pictures (7, 8): reading of the colour noise and sharing of crops, see `augment.Recipe`.
    """

    batch: int = 128
    epochs: int = 90
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0005
    bias_rate_factor: float = 1.0
    drop_bias_rate: bool = True
    decay_biases: bool = True
    schedule: tuple | None = None
    patience: int = 5
    pictures: augment.Recipe = augment.PAPER


LOG_145 = (
    Change(23, rate=1e-3),
    Change(51, rate=1e-4),
    Change(68, scale={"conv1.w": 0.1}, noise=0.0),
    Change(72, scale={"conv1": 0.0}),
    Change(78, rate=1e-5),
)

CODE2012 = Recipe(
    epochs=93, bias_rate_factor=2.0, drop_bias_rate=False, decay_biases=False,
    schedule=LOG_145, pictures=augment.CODE2012,
)  # fmt: skip

PRESETS = {
    "paper": Recipe(),
    "code2012": CODE2012,
    "half": CODE2012,
    # bvlc_alexnet's solver.prototxt: 450,000 steps of 256, ÷10 every 100,000; crops and flips, no noise
    "caffe": Recipe(
        batch=256, epochs=90, bias_rate_factor=2.0, decay_biases=False,
        schedule=tuple(Change(20 * (i + 1), rate=10.0 ** -(i + 3)) for i in range(4)),
        pictures=augment.Recipe(crop=227, noise=0.0),
    ),
}  # fmt: skip


class Schedule:
    """Where in the schedule a run is; `state` is all that a checkpoint needs of it."""

    def __init__(self, recipe):
        self.recipe = recipe
        self.state = {"drops": 0, "best": None, "waited": 0}

    def begin_epoch(self, epoch, optimizer):
        """Set the optimizer's rates for this epoch; return the colour noise that the pictures get."""
        rate, scale, noise = self.recipe.rate, {}, self.recipe.pictures.noise
        for change in self.recipe.schedule or ():
            if epoch >= change.epoch:
                rate = rate if change.rate is None else change.rate
                scale |= change.scale or {}
                noise = noise if change.noise is None else change.noise
        rate *= 0.1 ** self.state["drops"]
        optimizer.rate = rate
        optimizer.bias_rate = self.recipe.bias_rate_factor * (
            rate if self.recipe.drop_bias_rate else self.recipe.rate
        )
        optimizer.scale = scale
        return noise

    def end_epoch(self, error):
        """Take note of the validation error (the training error where nothing is validated)."""
        if self.recipe.schedule is not None:
            return
        state = self.state
        if state["best"] is None or error < state["best"]:
            state["best"], state["waited"] = error, 0
        else:
            state["waited"] += 1
        if state["waited"] >= self.recipe.patience:
            state["drops"], state["waited"] = state["drops"] + 1, 0

    @property
    def ended(self):
        """Whether a fourth drop was due: training has come to its end."""
        return self.state["drops"] > 3


def from_json(fields):
    """Build a Recipe from what json.loads(json.dumps(recipe._asdict())) gives, else raise DataError."""
    try:
        named = dict(zip(augment.Recipe._fields, fields["pictures"], strict=True))
        fields = fields | {"pictures": checked(augment.Recipe, named, "pictures")}
        if fields["schedule"] is not None:
            changes = [dict(zip(Change._fields, change, strict=True)) for change in fields["schedule"]]
            fields["schedule"] = tuple(checked(Change, change, "schedule") for change in changes)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"recipe: {error!r}") from error
    return checked(Recipe, fields, "recipe")
