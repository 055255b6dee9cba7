"""Changes of safetensors files and of the texts beside them: of one bit, of a stretch, and of what the header says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def flip_in_the_header(content: bytes, draw: random.Random) -> bytes:
    length = min(len(content), 8 + int.from_bytes(content[:8], "little"))
    return flip(content[:length], draw) + content[length:]


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def extend(content: bytes, draw: random.Random) -> bytes:
    return content + draw.randbytes(draw.randrange(1, 64))


def zero_a_stretch(content: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(content))
    last = min(len(content), first + draw.randrange(1, 256))
    return content[:first] + bytes(last - first) + content[last:]


def move_a_stretch(content: bytes, draw: random.Random) -> bytes:
    first, second = sorted(draw.randrange(len(content)) for _ in range(2))
    return content[second:] + content[first:second] + content[:first]


def lie_about_the_header(content: bytes, draw: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    lies = (
        0,
        1,
        length - 1,
        length + 1,
        length + 8,
        len(content),
        2**25 + 1,
        2**31,
        2**63,
        2**64 - 1,
        draw.randrange(2**64),
    )
    return draw.choice(lies).to_bytes(8, "little") + content[8:]


def _of_header(change: Callable[[dict[str, Any], random.Random], object]) -> Mutation:
    """A change of the header as JSON; a file without a header gets a bit flipped."""

    def mutation(content: bytes, draw: random.Random) -> bytes:
        length = int.from_bytes(content[:8], "little")
        try:
            header = json.loads(content[8 : 8 + length])
        except ValueError:
            return flip(content, draw)
        changed = change(header, draw)
        text = changed if isinstance(changed, str) else json.dumps(header)
        encoded = text.encode()
        return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]

    mutation.__name__ = change.__name__
    return mutation


def _tensor(header: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    name = draw.choice([name for name in header if name != "__metadata__"])
    entry: dict[str, Any] = header[name]
    return entry


def swap_places(header: dict[str, Any], draw: random.Random) -> None:
    one, other = _tensor(header, draw), _tensor(header, draw)
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]


def overlap(header: dict[str, Any], draw: random.Random) -> None:
    _tensor(header, draw)["data_offsets"] = list(_tensor(header, draw)["data_offsets"])


def move(header: dict[str, Any], draw: random.Random) -> None:
    entry = _tensor(header, draw)
    by = draw.choice((-(2**63), -8, -1, 1, 8, 2**31, 2**63))
    entry["data_offsets"] = [place + by for place in entry["data_offsets"]]


def another_end(header: dict[str, Any], draw: random.Random) -> None:
    _tensor(header, draw)["data_offsets"][draw.randrange(2)] = draw.choice(
        (-1, 0, 1, 2**64, 1.5, None, "0", [], True)
    )


def another_shape(header: dict[str, Any], draw: random.Random) -> None:
    shape = _tensor(header, draw)["shape"]
    if shape and draw.random() < 0.5:
        shape[draw.randrange(len(shape))] = draw.choice((-1, 0, 1, 2**32, 2**64, 1e3, None, "2", True))
    else:
        shape.append(draw.choice((0, 1, 2, 2**63)))


def turned_shape(header: dict[str, Any], draw: random.Random) -> None:
    _tensor(header, draw)["shape"].reverse()


def another_dtype(header: dict[str, Any], draw: random.Random) -> None:
    _tensor(header, draw)["dtype"] = draw.choice(
        ("F64", "F32", "I32", "U32", "F16", "BF16", "U8", "BOOL", "F4", "f32", "", None, 32)
    )


def a_name_twice(header: dict[str, Any], draw: random.Random) -> str:
    text, name = json.dumps(header), draw.choice([name for name in header if name != "__metadata__"])
    again = json.dumps({name: {**header[name], "shape": [0]}})[1:-1]
    return f"{{{again}, {text[1:]}" if draw.random() < 0.5 else f"{text[:-1]}, {again}}}"


def another_name(header: dict[str, Any], draw: random.Random) -> None:
    name = draw.choice([name for name in header if name != "__metadata__"])
    header[draw.choice((name + "x", "", "\0", "../x", "a" * 5000))] = header.pop(name)


def one_tensor_less(header: dict[str, Any], draw: random.Random) -> None:
    header.pop(draw.choice([name for name in header if name != "__metadata__"]))


def other_metadata(header: dict[str, Any], draw: random.Random) -> None:
    header["__metadata__"] = draw.choice(
        ({}, {"format": 1}, [], None, "x", {"sha256": "0" * 64}, {"sha256": ""})
    )


def a_key_more(header: dict[str, Any], draw: random.Random) -> None:
    _tensor(header, draw)["more"] = draw.choice((1, {}, [[]]))


def nested(header: dict[str, Any], draw: random.Random) -> str:
    depth = draw.choice((100, 10_000, 100_000))
    return '{"a": ' + "[" * depth + "]" * depth + "}"


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, flip, flip_in_the_header, flip_in_the_header, cut, extend, zero_a_stretch, move_a_stretch, lie_about_the_header,
    *map(_of_header, (
        swap_places, overlap, move, another_end, another_shape, turned_shape, another_dtype, a_name_twice, another_name,
        one_tensor_less, other_metadata, a_key_more, nested,
    )),
)  # fmt: skip


def mutated(content: bytes, draw: random.Random, number: int) -> tuple[str, bytes]:
    """The name of a change, and the bytes after it."""
    mutation = MUTATIONS[number % len(MUTATIONS)]
    return mutation.__name__, mutation(content, draw)
