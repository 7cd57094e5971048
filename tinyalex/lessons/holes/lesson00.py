"""Lesson 0: ten minutes."""

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _score_cases(rng):
    return [(rng.standard_normal((10, *sizes(rng, (4, 9)))),) for _ in range(3)]


@hole(
    cases=_score_cases,
    hints=[
        """The ten scores of a picture stand below each other: they are compared down the rows.""",
        """Down the rows is axis 0: answer = scores.argmax(axis=0).""",
    ],
    wrong=[
        (
            "scores.argmax(axis=0)",
            "scores.argmax(axis=1)",
            """axis 1 compares the pictures with each other: you find, for each shape, the picture that looks
            most like it. Compare the shapes, down the rows: axis 0.""",
        ),
        (
            "scores.argmax(axis=0)",
            "scores.argmax()",
            """without an axis the highest of all scores of all pictures is found, one number. Each picture
            wants an answer of its own: axis=0.""",
        ),
        (
            "scores.argmax(axis=0)",
            "scores.max(axis=0)",
            """that is how high the best score is; asked is which one it is: argmax.""",
        ),
        (
            "scores.argmax(axis=0)",
            "scores.argmin(axis=0)",
            """that is the shape which the picture looks least like: argmax finds the highest.""",
        ),
    ],
)
def best(scores):
    """Number of the highest score of each picture.  (10, N) → (N,)"""
    answer = scores.argmax(axis=0)
    return answer
