"""The command that judges layers written elsewhere."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tinyalex.cli.common import console


def judge(
    file: Annotated[Path, typer.Argument(help="A Python file with layers.")],
    seconds: Annotated[float, typer.Option(help="Time for a layer's forward or backward.", min=1)] = 20,
    memory: Annotated[float, typer.Option(help="GiB that the file may take.", min=0.1)] = 2,
):
    """Check layers that were written elsewhere, and name their mistakes; exit code 1 if one is wrong.

    Convolution, max pooling, ReLU, linear and dropout: pairs of functions conv_forward(x, w, b, conv_param)
    and conv_backward(dout, cache), classes with forward and backward, or torch.autograd.Function.  The file
    is run, within limits of time and memory, but not locked in: judge only files that you would run.
    """
    from tinyalex.lessons import judge as judging

    table = Table("layer", "operation", "verdict", "why", show_lines=True)
    wrong = 0
    if missing := judging.limited():
        console.print(missing)
    for verdict in judging.verdicts(file, seconds, int(memory * 2**30)):
        wrong += verdict.state not in (judging.RIGHT, judging.UNKNOWN)
        name = f"{verdict.layer}\n({verdict.form})" if verdict.form else verdict.layer
        table.add_row(name, verdict.operation, verdict.state, verdict.message)
    console.print(table)
    raise typer.Exit(bool(wrong))
