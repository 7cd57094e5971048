"""What a network costs, how fast it is, and whether it is right on this machine."""


def print_whole(console, table):
    """Print a table with all its digits: where the terminal is narrower, its lines run over, none is cut."""
    from rich.measure import Measurement

    table.width = Measurement.get(console, console.options.update_width(1000), table).maximum
    console.print(table, soft_wrap=True)
