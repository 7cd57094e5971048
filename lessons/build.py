"""Write the notebooks from their sources: NN_name.py (py:percent) → NN_name.ipynb, without outputs.

python lessons/build.py
"""

from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
DRAWING = {
    "jupyter": {"source_hidden": True}
}  # of a cell that begins with `# %% drawing`


def sources():
    """The lessons' sources, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def notebook(source):
    """The notebook of a source, the same text each time (jupytext would draw new cell ids)."""
    found = jupytext.read(source, fmt="py:percent")
    found.metadata = nbformat.from_dict(METADATA)
    for i, cell in enumerate(found.cells):
        cell.id = f"{source.stem[:2]}-{i:02d}"
        cell.metadata = nbformat.from_dict(
            DRAWING if cell.metadata.get("title") == "drawing" else {}
        )
    return nbformat.writes(found) + "\n"


if __name__ == "__main__":
    for source in sources():
        source.with_suffix(".ipynb").write_text(notebook(source), encoding="utf-8")
        print(source.with_suffix(".ipynb").name)
