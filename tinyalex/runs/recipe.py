"""How the network is trained: rates, their schedule, and what is done to the pictures (paper, section 5).

Where the paper's text and the 2012 code differ, the field says so; the numbers in brackets are those of the
eleven differences (the other six are in `tinyalex.models.AlexNet`).
"""

from typing import NamedTuple

from tinyalex.data import augment
from tinyalex.data.loader import minibatches
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import check_numbers, checked


class Change(NamedTuple):
    """From the start of this epoch: a new rate, factors on single rates (`SGD.scale`), a new colour noise.

    pictures: from then on training sees so many, the first; until a change says so, all.
    """

    epoch: int
    rate: float | None = None
    scale: dict | None = None
    noise: float | None = None
    pictures: int | None = None


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
    decays: decay of single layers, by name, in place of `decay`.
    data_batch: None shuffles the pictures, and leaves out those that fill no minibatch.  Else they come in
        the files' order, the same in every epoch, and each run of so many is cut into minibatches, of which
        the last may be smaller: 2011's data batches of 10,000 (data.py; src/layer.cu divides each gradient by
        the pictures that there are).
    rate_by: what the rates, those of batches of 128 images, are multiplied by where a batch is k times as
        large.  None: nothing; "k", which worked best, or "sqrt-k", which theory says, since it keeps the
        variance of an update (Krizhevsky, 2014: One weird trick; his configurations have k).
    augmentation (7, 8): reading of the colour noise and sharing of crops, see `augment.Augmentation`.
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
    decays: dict | None = None
    data_batch: int | None = None
    augmentation: augment.Augmentation = augment.PAPER
    rate_by: str | None = None

    def growth(self, batch):
        """Return the factor on the rates for batches of so many images."""
        return {None: 1.0, "k": batch / 128, "sqrt-k": (batch / 128) ** 0.5}[self.rate_by]


LOG_145 = (
    Change(23, rate=1e-3),
    Change(51, rate=1e-4),
    Change(68, scale={"conv1.w": 0.1}, noise=0.0),
    Change(72, scale={"conv1": 0.0}),
    Change(78, rate=1e-5),
)

CODE2012 = Recipe(
    epochs=93, bias_rate_factor=2.0, drop_bias_rate=False, decay_biases=False,
    schedule=LOG_145, augmentation=augment.CODE2012,
)  # fmt: skip


def small(epochs=30):
    """For some hundred to some thousand pictures: batches of 32, crops and mirror images, no colour noise.

    The rate drops after 70% and 90% of the epochs.  Found by trying; see measured/README.md.
    """
    drops = Change(round(0.7 * epochs), rate=1e-3), Change(round(0.9 * epochs), rate=1e-4)
    pictures = augment.Augmentation(crop=112, noise=0.0)
    return Recipe(batch=32, epochs=epochs, schedule=drops, augmentation=pictures)


RECIPES = {
    "small": small(),
    "paper": Recipe(),
    "code2012": CODE2012,
    "half": CODE2012,
    # bvlc_alexnet's solver.prototxt: 450,000 steps of 256, ÷10 every 100,000; crops and flips, no noise
    "caffe": Recipe(
        batch=256, epochs=90, bias_rate_factor=2.0, decay_biases=False,
        schedule=tuple(Change(20 * (i + 1), rate=10.0 ** -(i + 3)) for i in range(4)),
        augmentation=augment.Augmentation(crop=227, noise=0.0),
    ),
}  # fmt: skip
# Simonyan and Zisserman, section 3.1: batches of 256, 74 epochs, S = 256; the rest as in AlexNet's paper
VGG = Recipe(batch=256, epochs=74, augmentation=augment.Augmentation(scale=256))
RECIPES |= {f"vgg-{name}": VGG for name in ("a", "a-lrn", "b", "c", "d", "e")}


def _ladder(epochs, *changes, decays, crops=False, **others):
    """One of cuda-convnet's recipes of 2011: layer-params-*.cfg, and the comments in them."""
    pictures = augment.Augmentation(crop=24 if crops else 32, flip=crops, noise=0.0)
    return Recipe(
        epochs=epochs, rate=1e-3, bias_rate_factor=2.0, decay=0.0, decay_biases=False, schedule=changes,
        decays=decays, data_batch=10_000, augmentation=pictures, **others,
    )  # fmt: skip


_CONVOLUTIONS = dict.fromkeys(("conv1", "conv2", "conv3"), 0.004)
_LOCAL = {"local3": 0.004, "local4": 0.004}
# 80sec: ÷10 after 8 epochs (where it ends is not said: Caffe's port does 10).  19pct: no schedule is given;
# here 18pct's: "all learning rates" ÷10 after 120 epochs, ÷10 again after 10 more.  13pct (Methodology.md)
# and 11pct train on the data batches 1–4 first, then on all five, then with epsW alone ÷10 and ÷100.
_18PCT = Change(120, rate=1e-4), Change(130, rate=1e-5)
LADDER = {
    "cifar-80sec": _ladder(10, Change(8, rate=1e-4), decays=_CONVOLUTIONS | {"fc64": 0.03, "fc10": 0.03}),
    "cifar-19pct": _ladder(140, *_18PCT, decays=_CONVOLUTIONS | {"fc10": 3.0}),
    "cifar-18pct": _ladder(140, *_18PCT, decays=_CONVOLUTIONS | {"fc10": 1.0}),
    "cifar-13pct": _ladder(
        160, Change(0, pictures=40_000), Change(100, pictures=50_000), Change(140, rate=1e-4),
        Change(150, rate=1e-5), decays=_LOCAL | {"fc10": 0.004}, crops=True, drop_bias_rate=False,
    ),
    "cifar-11pct": _ladder(
        520, Change(0, pictures=40_000), Change(350, pictures=50_000), Change(500, rate=1e-4),
        Change(510, rate=1e-5), decays=_LOCAL | {"fc10": 0.01}, crops=True, drop_bias_rate=False,
    ),
}  # fmt: skip
RECIPES |= LADDER


def recipe_of(recipe, network="paper", noise=None, **changes):
    """Return a `Recipe`: the one given, or that of a name; None: of the network's authors, or the paper's.

    noise: of its augmentation.  changes: of its fields, None where not asked for.  Another rate changes the
    schedule's later ones alike: a tenth remains a tenth.  Raises ArgumentError for an unknown name or field,
    an invalid value, or a patience beside a schedule.
    """
    if recipe is None:
        recipe = network if isinstance(network, str) and network in RECIPES else "paper"
    if not isinstance(recipe, Recipe):
        if recipe not in RECIPES:
            raise ArgumentError(f"recipe: expected one of {', '.join(RECIPES)}, found {recipe!r}")
        recipe = small(changes["epochs"]) if recipe == "small" and changes.get("epochs") else RECIPES[recipe]
    changes = {name: value for name, value in changes.items() if value is not None}
    for name in changes:
        if name not in Recipe._fields:
            raise ArgumentError(f"recipe: expected one of {', '.join(Recipe._fields)}, found {name!r}")
    if changes.get("rate_by", "k") not in ("k", "sqrt-k"):
        raise ArgumentError(f"rate_by: expected k or sqrt-k, found {changes['rate_by']!r}")
    if noise is not None:
        changes["augmentation"] = recipe.augmentation._replace(noise=noise)
    made = recipe._replace(**changes)
    check(made)
    if "patience" in changes and made.schedule is not None:
        drops = ", ".join(f"{change.epoch}" for change in made.schedule)
        raise ArgumentError(f"patience: this recipe's rate does not wait, it changes after epochs {drops}")
    if "rate" in changes and "schedule" not in changes and recipe.schedule and recipe.rate:
        factor = made.rate / recipe.rate
        later = [c if c.rate is None else c._replace(rate=factor * c.rate) for c in recipe.schedule]
        made = made._replace(schedule=tuple(later))
    return made


def check(recipe):
    """Raise ArgumentError, naming the field, for a number of a recipe that nothing can be trained by."""
    whole = {"batch": recipe.batch, "epochs": recipe.epochs, "patience": recipe.patience}
    numbers = {name: getattr(recipe, name) for name in ("rate", "momentum", "decay", "bias_rate_factor")}
    numbers |= {f"decay of {layer}": decay for layer, decay in (recipe.decays or {}).items()}
    numbers["noise"] = recipe.augmentation.noise
    if recipe.data_batch is not None:
        whole["data_batch"] = recipe.data_batch
    for change in recipe.schedule or ():
        if type(change.epoch) is not int or change.epoch < 0:
            raise ArgumentError(f"schedule: expected an epoch, 0, 1, 2, …, found {change.epoch!r}")
        where = f"schedule: epoch {change.epoch}"
        numbers |= {f"{where}: scale of {name}": factor for name, factor in (change.scale or {}).items()}
        for name in ("rate", "noise", "pictures"):
            if getattr(change, name) is not None:
                (whole if name == "pictures" else numbers)[f"{where}: {name}"] = getattr(change, name)
    check_numbers("", 0, **numbers)
    for name, number in whole.items():
        if type(number) is not int or number < 1:
            raise ArgumentError(f"{name}: expected a whole number ≥ 1, found {number!r}")


def pictures_of(recipe, epoch, count):
    """Return on how many pictures, of so many that there are, an epoch trains."""
    limit = None
    for change in recipe.schedule or ():
        if epoch >= change.epoch:
            limit = change.pictures or limit
    return min(count, limit or count)


def steps_of(recipe, epoch, count):
    """Return how many steps an epoch has, of so many pictures that there are."""
    return minibatches(pictures_of(recipe, epoch, count), recipe.batch, True, recipe.data_batch)


class Schedule:
    """Where in the schedule a run is; `state` is all that a checkpoint needs of it.

    scale: factors on the rates of single layers, as of `SGD`, throughout.  Raises as `check`.
    """

    def __init__(self, recipe, scale=None):
        check(recipe)
        self.recipe, self.scale = recipe, scale or {}
        self.state = {"drops": 0, "best": None, "waited": 0}

    def begin_epoch(self, epoch, optimizer):
        """Set the optimizer's rates for this epoch; return the colour noise that the pictures get."""
        rate, scale, noise = self.recipe.rate, dict(self.scale), self.recipe.augmentation.noise
        for change in self.recipe.schedule or ():
            if epoch >= change.epoch:
                rate = rate if change.rate is None else change.rate
                scale |= change.scale or {}
                noise = noise if change.noise is None else change.noise
        growth = self.recipe.growth(self.recipe.batch)
        optimizer.rate = growth * rate * 0.1 ** self.state["drops"]
        optimizer.bias_rate = self.recipe.bias_rate_factor * (
            optimizer.rate if self.recipe.drop_bias_rate else growth * self.recipe.rate
        )
        optimizer.scale = scale
        return noise

    def end_epoch(self, error):
        """Take note of the validation error (the training error where nothing is validated).

        Returns whether the rate drops now.
        """
        if self.recipe.schedule is not None:
            return False
        state = self.state
        if state["best"] is None or error < state["best"]:
            state["best"], state["waited"] = error, 0
        else:
            state["waited"] += 1
        if state["waited"] < self.recipe.patience:
            return False
        state["drops"], state["waited"] = state["drops"] + 1, 0
        return True

    def go_on(self):
        """Let a run whose last drop was due go on at its last rate."""
        if self.ended:
            self.state = {"drops": 3, "best": None, "waited": 0}

    @property
    def ended(self):
        """Whether a fourth drop was due: training has come to its end."""
        return self.state["drops"] > 3


def to_json(recipe):
    """Return a dict of JSON's own types."""
    schedule = recipe.schedule and [change._asdict() for change in recipe.schedule]
    return {**recipe._asdict(), "schedule": schedule, "augmentation": recipe.augmentation._asdict()}


def from_json(fields):
    """Undo `to_json`; DataError for anything else."""
    if not isinstance(fields, dict) or not {"schedule", "augmentation"} <= fields.keys():
        raise DataError(f"recipe: expected its fields by name, found {str(fields)[:80]}")
    parts = {"augmentation": checked(augment.Augmentation, fields["augmentation"], "augmentation")}
    if fields["schedule"] is not None:
        if not isinstance(fields["schedule"], list):
            raise DataError(f"schedule: expected a list of changes, found {str(fields['schedule'])[:80]}")
        parts["schedule"] = tuple(checked(Change, change, "schedule") for change in fields["schedule"])
    made = checked(Recipe, fields | parts, "recipe")
    if made.rate_by not in (None, "k", "sqrt-k"):
        raise DataError(f"recipe: rate_by: expected k, sqrt-k or null, found {made.rate_by!r}")
    try:
        check(made)
    except ArgumentError as error:
        raise DataError(f"recipe: {error}") from error
    return made
