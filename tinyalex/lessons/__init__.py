"""What the notebooks in the folder `lessons` share.

    lesson(5)       check, hint, solution and tutor for the holes of lesson 5
    step_through    a computation, one step at a time
    paint           pictures of arrays as SVG, for steps and the tutor
    draw            pictures of arrays with Matplotlib, for all else
    zero            the trained network of lesson 0; python lessons/train.py makes its weights
    teacher         a page for the teacher of each lesson, from its text and the wrong answers of its holes

To write or change a lesson:

1. lessons/NN_name.py is the source, in py:percent.  `python lessons/build.py` writes the notebook beside it,
   which is committed too.
2. A hole is a cell with one function in it and nothing else.  What the learner is to write is `...`: a line
   of its own, the right side of an assignment, or what is returned; a comment behind it says what belongs
   there.  The cell after it is

       name = check(name)
       # hint("name")
       # solution("name")

   so that later cells use the learner's function once it is right, and the solution until then.
3. tinyalex/lessons/holes/lessonNN.py holds the solution of each hole under the same name, signature and
   docstring, with its cases, hints and at least three wrong answers: see `checks`.
   `python -m tinyalex.lessons.mutants NAME` tries some hundred more wrong ones on its check, and at least
   three right ones in other styles stand in tests/right_answers.py.
   A broken function to expose (`kill`) is such a cell too; its solution stands in `kill`.
4. Numbers in the prose are asserted in the next cell.  Sizes are all different.  A picture of every array
   that matters, a `step_through`, something to break on purpose, three questions, what comes next.  A cell
   that only draws begins with `# %% drawing`: it is folded, in JupyterLab and in the pages.
5. `pytest tests/test_lessons.py -k NN_` runs the lesson as shipped and with its solutions, tries the wrong
   answers, and looks at its page in a browser.
"""

import importlib

__all__ = ["draw", "lesson", "paint", "step_through"]


def __getattr__(name):
    """Import what is used only when it is used: a check needs NumPy alone."""
    if name in ("draw", "paint"):
        return importlib.import_module(f"tinyalex.lessons.{name}")
    places = {"lesson": "notebook", "step_through": "steps"}
    if name in places:
        return getattr(importlib.import_module(f"tinyalex.lessons.{places[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
