"""Terminals and pipes of every kind: no width, and encodings that lack some of the characters printed."""

import codecs
import os
import sys

SAID = {
    "×": "x", "·": "*", "−": "-", "–": "-", "…": "...", "≥": ">=", "≤": "<=", "→": "->", "√": "sqrt ",
    "±": "+-", "α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "μ": "mu", "µ": "u", "σ": "sigma",
    "Σ": "sum", "∞": "inf", "≈": "~", "∗": "*", "█": "#", "⅓": "^(1/3)",
}  # fmt: skip
SAID |= {raised: f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}


def _said(error):
    """What stands in for characters that an encoding lacks: a word in ASCII, or a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SAID.get(c, "?") for c in lacking), error.end


def settle():
    """Have every character printed somehow, on every stream; COLUMNS=0, as some editors set it, is none."""
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]
    codecs.register_error("tinyalex", _said)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and not (stream.encoding or "").lower().startswith("utf"):
            stream.reconfigure(errors="tinyalex")
