"""The paper's figures, drawn from our own runs."""

from matplotlib.figure import Figure

STYLES = {"relu": ("-", "tab:blue", "ReLU"), "tanh": ("--", "tab:orange", "tanh")}


def relu_vs_tanh_figure(curves, data, target):
    """Figure 1: training error against epochs, ReLU solid, tanh dashed, a line at the target error."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    named = set()
    for curve in curves:
        line, colour, name = STYLES[curve.neuron]
        label = None if name in named else f"{name} (rate {curve.rate:g})"
        named.add(name)
        epochs = range(1, len(curve.errors) + 1)
        axes.plot(epochs, curve.errors, line, color=colour, label=label, marker=".", markersize=3)
        arrived = curve.epochs_to(target)
        if arrived:
            axes.plot(arrived, target, "o", color=colour, markersize=5)
    axes.axhline(target, color="0.6", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error rate", title=f"four-layer network, {data}")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 0.9)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
