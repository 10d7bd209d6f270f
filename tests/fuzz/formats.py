"""Damage that knows a format: headers that lie, archives that unpack to much, pickles that run."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.damage import (
    WIDE,
    Pairs,
    json_file,
    json_tree,
    lines,
    octets,
    once_in,
    parse,
    pick,
    rearrange,
    render,
)
from tests.fuzz.tree import Entry, Tree

PICTURE = np.arange(28 * 28, dtype=np.uint8).reshape(28, 28)
ABSURD = (0, 1, 3, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, 10**30)
BOMB = 256 * 2**20  # bytes that some hundred kilobytes unpack to
CANARY = "fwt_fuzz_canary"  # what code in a pickle would leave behind

absurd = st.sampled_from(ABSURD)


@st.composite
def damage_of(draw: DrawFn, tree: Tree) -> Tree:
    """A folder with one file damaged after its kind, or with other files than it should have.

    Once in three times the hashes that its states hold are made to fit again.
    """
    if once_in(draw, 5 if len(tree) > 1 else 20):
        files = rearrange(draw, tree)
    else:
        # specs have a reader of their own
        name = pick(draw, [n for n in sorted(tree) for _ in range(1 if "spec" in n else 4)])
        damage = next(make for end, make in KINDS.items() if name.endswith(end))
        files = {**tree, name: damage(draw, tree[name])}
    return reseal(files) if once_in(draw, 3) else files


def unpack(entry: Entry) -> bytes:
    content = entry if isinstance(entry, bytes) else b""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


# --- safetensors ---------------------------------------------------------------------------

DTYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4",
          "X", "", "f32")  # fmt: skip
LENGTHS = (0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, 100_000_000, 100_000_001)
NUMBERS = (np.nan, np.inf, -np.inf, 1e38, 0.0, 1.5)
LABELS = ("", "0", "-1", "²", "1" * 5000, "torch", "nonsense", "\x00")
NAMES = ("../../evil", "/etc/passwd", "", "__metadata__", "a\x00b", "n" * 3000)


def split(content: bytes) -> tuple[str, bytes]:
    """The header of a safetensors file, and its data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end].decode(), content[end:]


def join(header: str, data: bytes) -> bytes:
    text = header.encode()
    return len(text).to_bytes(8, "little") + text + data


def has_digest(content: bytes) -> bool:
    """Whether a safetensors file that can be read says its own digest."""
    return "fwt.sha256" in json.loads(split(content)[0]).get("__metadata__", {})


def unseal(content: bytes) -> bytes:
    """A safetensors file without its digest, as a person would leave it who changes it."""
    text, data = split(content)
    header = json.loads(text)
    header.get("__metadata__", {}).pop("fwt.sha256", None)
    return join(json.dumps(header), data)


def reseal(tree: Tree) -> Tree:
    """A tree whose states have the hashes of the files beside them, and no digest of their own."""
    files = dict(tree)
    for path, entry in tree.items():
        above, _, last = path.rpartition("/")
        if last != "state.json" or not isinstance(entry, bytes):
            continue
        try:
            state = json.loads(entry)
            hashes = {name: sha256(tree.get(f"{above}/{name}".lstrip("/")))
                      for name in state["sha256"] if name != last}  # fmt: skip
        except (ValueError, RecursionError, TypeError, KeyError):
            continue  # too damaged to be mended
        files[path] = json.dumps({**state, "sha256": hashes}).encode()
    return files


def sha256(entry: Entry | None) -> str:
    """The hash of a file; of what is none, that of an empty one."""
    return hashlib.sha256(entry if isinstance(entry, bytes) else b"").hexdigest()


def tensors(draw: DrawFn, content: bytes) -> bytes:
    """A safetensors file: its header as JSON, the JSON in its metadata, its length, or its data.

    Half of the time its digest is taken out first: what is behind that check must hold too.
    """
    if draw(st.booleans()):
        content = unseal(content)
    text, data = split(content)
    match draw(st.integers(0, 7)):
        case 0:
            return pick(draw, LENGTHS).to_bytes(8, "little") + content[8:]
        case 1:
            at, number = 4 * (draw(WIDE) % max(1, len(data) // 4)), np.float32(pick(draw, NUMBERS))
            more = draw(st.binary(min_size=8, max_size=8)) if once_in(draw, 4) else b""
            return join(text, data[:at] + number.tobytes() + data[at + 4 :] + more)
        case 2:
            return join(json_tree(draw, parse(text)), data)
        case 3:
            return join(render(metadata(draw, parse(text))), data)
        case 4 | 5:
            return join(render(tensor(draw, parse(text))), data)
        case _:
            return octets(draw, content, (b'"F64"', b'"shape":[', b'"__metadata__"', b"NaN"))


def metadata(draw: DrawFn, header: Pairs) -> Pairs:
    """A header with another label; the JSON that stands as text in one is damaged as JSON."""
    labels = next((Pairs(value) for name, value in header if name == "__metadata__"), Pairs())
    if labels:
        at = draw(WIDE) % len(labels)
        name, text = labels[at]
        is_json = text.startswith("{")
        labels[at] = (name, json_tree(draw, parse(text)) if is_json else pick(draw, LABELS))
    return Pairs((n, labels if n == "__metadata__" else value) for n, value in header)


def tensor(draw: DrawFn, header: Pairs) -> Pairs:
    """A header with the type, shape, place or name of a tensor changed, or the tensor twice."""
    at = pick(draw, [at for at, (name, _) in enumerate(header) if name != "__metadata__"])
    name, fields = header[at][0], dict(header[at][1])
    match draw(st.integers(0, 5)):
        case 0:
            fields["dtype"] = pick(draw, DTYPES)
        case 1:
            fields["shape"] = draw(st.lists(absurd, max_size=4))
        case 2:
            fields["data_offsets"] = [draw(absurd), draw(absurd)]
        case 3:
            fields["shape"] = pick(draw, (fields["shape"][::-1], [1], [1] * 65, [1] * 999))
        case 4:
            name = pick(draw, NAMES)
        case _:
            header.append(header[at])
    header[at] = (name, Pairs(fields.items()))
    return header


# --- archives and pickles ------------------------------------------------------------------


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, (f"open({CANARY!r}, 'w').close()",)


PICKLES = tuple(
    pickle.dumps(value, protocol)
    for value in (Code(), {"core.weight": Code()})
    for protocol in (0, 2, 4, 5)
)
SHAPES = ((28, 28), (28,), (), (0, 28), (28, 28, 3), (29, 28))
TYPES = ("u1", "f4", "f8", ">f8", "i8", "c16", "?", "U3", "M8[s]", "f2", "V7")
FILLS = (np.nan, np.inf, -1.0, 1.0, 300.0)
DESCRS = ("|u1", "|O", "<f8", "|V8", "<U9999999", "O", "|S0", "<M8[D]", "evil", "<c32")
HEADERS = ("(" * 3000, "__import__('os')", "{}", "9" * 6000, "[" * 200)
VERSIONS = ((1, 0), (1, 0), (2, 0), (3, 0), (9, 9))
MEMBERS = ("../../evil.npy", "/tmp/evil.npy", "a\x00b.npy", "x", "", "core.Wx.npy")  # noqa: S108


def npy_of(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def npy(draw: DrawFn, content: bytes) -> bytes:
    """A .npy file: its header's words, its bytes, or another array."""
    match draw(st.integers(0, 3)):
        case 0:
            return octets(draw, content, (b"'|O'", b"'<f8'", b"True", b"(28, 28)"))
        case 1:
            shape = tuple(draw(st.lists(absurd, max_size=3)))
            fields = {"descr": pick(draw, DESCRS), "fortran_order": draw(st.booleans())}
            body = pick(draw, (repr({**fields, "shape": shape}), *HEADERS)).encode() + b"\n"
            version = pick(draw, VERSIONS)
            length = len(body).to_bytes(2 if version[0] == 1 else 4, "little")
            return b"\x93NUMPY" + bytes(version) + length + body + content[-784:]
        case 2:
            return npy_of(np.ones(pick(draw, SHAPES), np.int8).astype(pick(draw, TYPES)))
        case _:
            return npy_of(np.full((28, 28), pick(draw, FILLS)))


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


@cache
def bombs() -> tuple[bytes, bytes]:
    """A gzip and a .npz file that unpack to far more than they are."""
    array = npy_of(np.zeros(BOMB, np.uint8))
    return gzip.compress(array, mtime=0), archive_of({"core.Wx.npy": array}, zipfile.ZIP_DEFLATED)


def npz(draw: DrawFn, content: bytes) -> bytes:
    """A .npz file: bytes of the archive, or members that are not what they should be."""
    act = draw(st.integers(0, 4))
    if act < 2:
        return octets(draw, content, (b"PK\x01\x02", b"PK\x05\x06", b".npy"))
    if act == 2:
        return pick(draw, PICKLES)
    if once_in(draw, 100):
        return bombs()[1]
    members = members_of(content)
    name = pick(draw, sorted(members))
    if act == 3:
        members[name] = npy(draw, members[name])
    else:
        members[pick(draw, MEMBERS)] = pick(draw, (*PICKLES, members[name], b"", bytes(2**20)))
    return archive_of(members, zipfile.ZIP_DEFLATED)


def pt(draw: DrawFn, content: bytes) -> bytes:
    """A .pt file: bytes of the archive, a pickle alone, or one in an archive like torch's."""
    act = draw(st.integers(0, 3))
    if act < 2:
        words = (b"PK\x01\x02", b"data.pkl", b"cposix\nsystem\n", b"R.")
        return octets(draw, content, words)
    if act == 2:
        return pick(draw, PICKLES)
    members = members_of(content)
    name = next(name for name in members if name.endswith("data.pkl"))
    new = octets(draw, members[name], (b"cbuiltins\nexec\n", b"R.", b"c__main__\nx\n"))
    return archive_of({**members, name: pick(draw, PICKLES) if once_in(draw, 3) else new})


# --- images --------------------------------------------------------------------------------

MODES = ("L", "1", "P", "RGB", "RGBA", "LA", "I;16")


def idx(draw: DrawFn, stored: bytes) -> bytes:
    """An IDX file: its bytes as they are stored, or unpacked; its counts; or one with a bomb."""
    content = unpack(stored)
    match draw(st.integers(0, 5)):
        case 0:
            return octets(draw, stored)
        case 1:
            rank = content[3]
            counts = draw(st.lists(absurd, min_size=rank, max_size=rank))
            head = b"".join((count % 2**32).to_bytes(4, "big") for count in counts)
            return content[:4] + head + content[4 + 4 * rank :]
        case 2 if once_in(draw, 20):
            return gzip.compress(content, 1, mtime=0) + bombs()[0]
        case _:
            new = octets(draw, content)
            return gzip.compress(new, 1, mtime=0) if draw(st.booleans()) else new


def png_of(array: Any, mode: str = "L") -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, "PNG")
    return file.getvalue()


@cache
def blank(size: int) -> bytes:
    return zlib.compress(bytes(size))


def png(draw: DrawFn, content: bytes) -> bytes:
    """A .png file: bytes, another mode, or chunks with sizes that lie and right checksums."""
    act = draw(st.integers(0, 3))
    if act == 0:
        return png_of(PICTURE, pick(draw, MODES))
    if act == 1:
        return octets(draw, content, (b"IHDR", b"IDAT", b"tEXt", b"iCCP", b"acTL"))
    sides, body = [draw(absurd) % 2**32 for _ in range(2)], b"IDAT" + blank(2**20)
    if act == 3:
        sides = [28, 28]
        body = pick(draw, (b"iCCP", b"zTXt", b"IDAT")) + b"x\x00\x00" + blank(2**22)
    kinds = bytes([pick(draw, (1, 8, 16)), pick(draw, (0, 2, 3, 4, 6)), 0, 0, pick(draw, (0, 1))])
    head = b"IHDR" + b"".join(side.to_bytes(4, "big") for side in sides) + kinds
    chunks = (head, body, octets(draw, b"IDAT" + content[41:-16]), b"IEND")
    return content[:8] + b"".join(
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in chunks
        if len(chunk) >= 4
    )


# --- text ----------------------------------------------------------------------------------

TOML_WORDS = (
    b"1e999", b"nan", b"-inf", b"0x" + b"f" * 5000, b"9" * 5000, b"[" * 3000, b"[[", b"]]", b"{",
    b"}", b"=", b"\n", b".", b"a." * 600 + b"b = 1\n", b'"""', b"'''", b"true", b"1979-05-27",
    b"[train]\n", b"[model.core]\n", b'kind = "gru"\n', b"2147483648", b"9223372036854775808",
    b'"0-999999999"', b'"../../x"', b"-1", b"0", b'""', b"x = {a = {b = 1}}\n", b"\x1b[31m",
    b"\x00",
    b"steps = 1e18\n", b"inner_steps = 1000000000\n", b"{low = 0, high = 1, log = true}", b"[1, 2]",
)  # fmt: skip
STRING_WORDS = (b"??", b"a1", b"\n", b"\r", "é".encode(), "\u2028".encode(), b"\x00", b"z9" * 30)
POINTERS = (
    b"../../outside", b"/etc", b"step-99999999", b"step-00000002/..", b".", b"", b"\xff\xfe",
    b"step-00000002\nstep-00000003", "step-\uff100000002".encode(), b"step-00000003\x00",
)  # fmt: skip


def toml_line(draw: DrawFn, line: bytes) -> bytes:
    """A line of TOML with another value, or damaged as bytes."""
    key, equals, _ = line.partition(b"=")
    if equals and not once_in(draw, 4):
        return key + b"= " + pick(draw, TOML_WORDS)
    return octets(draw, line, TOML_WORDS)


def toml(draw: DrawFn, content: bytes) -> bytes:
    """A TOML file: bytes, words of the format, or whole lines."""
    if draw(st.booleans()):
        return lines(draw, content, toml_line)
    return octets(draw, content, TOML_WORDS)


def pointer(draw: DrawFn, content: bytes) -> bytes:
    """A pointer to a checkpoint."""
    return pick(draw, POINTERS) if draw(st.booleans()) else octets(draw, content)


# how a file's name ends -> how it is damaged
KINDS: dict[str, Callable[[DrawFn, Any], bytes]] = {
    ".safetensors": tensors,
    ".jsonl": partial(lines, one=json_file),
    ".json": json_file,
    "DONE": json_file,
    ".toml": toml,
    ".npy": npy,
    ".npz": npz,
    ".pt": pt,
    ".png": png,
    ".txt": partial(octets, words=STRING_WORDS),
    "ubyte": idx,
    "ubyte.gz": idx,
    "": pointer,
}
