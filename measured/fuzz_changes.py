"""How `fuzz.py` damages bytes and JSON."""

import copy
import json


def change_bytes(data, rng):
    """Return data with one to a few random changes."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        i = rng.randrange(len(data) + 1)
        j = min(len(data), i + rng.choice((1, 1, 2, 4, 8, 64, 1000)))
        match rng.randrange(7):
            case 0 | 1 if data:
                data[i % len(data)] ^= 1 << rng.randrange(8)
            case 2 if data:
                data[i % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                data[i:j] = rng.choice((b"\xff", b"\0", b"\x7f")) * (j - i)
            case 4:
                del data[i:j]
            case 5:
                data[i:i] = data[i:j] * rng.choice((1, 2, 10))
            case 6:
                del data[i if rng.random() < 0.3 else len(data) :]
    return bytes(data)


ODD = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 4096, 1 << 20, 1 << 31, 1 << 40, -(1 << 63), 10**400, 0.5,
    -0.0, 1e-300, 1e308, float("inf"), float("nan"), "", "x", "relu", "../../etc/passwd", "/etc/passwd",
    "a" * 10_000, "\0", [], {}, [[]], [1], [1, 2, 3], [0] * 1000, {"a": {}}, ["tanh", 1.0, 0.0],
)  # fmt: skip


def change_json(value, rng):
    """Return a JSON value with one to three of its parts replaced, removed, doubled or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        match rng.randrange(5):
            case 0 | 1:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            case 2:
                del holder[key]
            case 3:
                other, there = rng.choice(places)
                if there in other if isinstance(other, dict) else there < len(other):
                    holder[key] = copy.deepcopy(other[there])
            case 4 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    return value


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def nested(rng):
    """JSON as deep as a program's stack."""
    depth = rng.choice((10, 1000, 100_000))
    return "[" * depth + "]" * rng.choice((depth, 0))


def change_text(text, rng):
    """A JSON text, changed in its structure or in its bytes."""
    match rng.randrange(12):
        case 0:
            return nested(rng).encode()
        case 1 | 2 | 3:
            return change_bytes(text.encode(), rng)
    return json.dumps(change_json(json.loads(text), rng)).encode()
