"""Damage that knows a format: headers that lie, archives that unpack to much, pickles that run."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzz import damage, samples
from tools.fuzz.damage import Pairs
from tools.fuzz.dice import Dice
from tools.fuzz.guard import Broken
from tools.fuzz.tree import Entry, Tree, rearranged

ABSURD = (0, 1, 3, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, 10**30)
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4",
          "X", "", "f32")  # fmt: skip
BOMB = 256 * 2**20  # bytes that some hundred kilobytes unpack to


def unpacked(entry: Entry) -> bytes:
    """A file's bytes, unpacked if they are gzip."""
    content = entry if isinstance(entry, bytes) else b""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def md5(content: bytes) -> str:
    """The checksum that datasets are known by."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# --- safetensors ---------------------------------------------------------------------------


def has_digest(content: bytes) -> bool:
    """Whether a safetensors file that can be read says its own digest."""
    end = 8 + int.from_bytes(content[:8], "little")
    return "fwt.sha256" in json.loads(content[8:end]).get("__metadata__", {})


def unsealed(content: bytes) -> bytes:
    """A safetensors file without its digest, as a person would leave it who changes it."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.get("__metadata__", {}).pop("fwt.sha256", None)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def resealed(tree: Tree) -> Tree:
    """A tree whose states have the hashes of the files beside them, and no digest of their own."""
    found = dict(tree)
    for name, entry in tree.items():
        above, _, last = name.rpartition("/")
        if last != "state.json" or not isinstance(entry, bytes):
            continue
        try:
            state = json.loads(entry)
            hashes = {key: _hash(tree.get(f"{above}/{key}" if above else key))
                      for key in state["sha256"] if key != last}  # fmt: skip
        except (ValueError, RecursionError, TypeError, KeyError):
            continue  # too damaged to be mended
        found[name] = json.dumps({**state, "sha256": hashes}).encode()
    return found


def _hash(entry: Entry | None) -> str:
    return hashlib.sha256(entry if isinstance(entry, bytes) else b"").hexdigest()


def tensors(dice: Dice, content: bytes) -> bytes:
    """A safetensors file: its header as JSON, the JSON in its metadata, its length, or its data.

    Half of the time its digest is taken out first: what is behind that check must hold too.
    """
    if dice.one_in(2):
        content = unsealed(content)
    act = dice.below(8)
    if act < 2:
        return damage.octets(dice, content, (b'"F64"', b'"shape":[', b'"__metadata__"', b"NaN"))
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    if act == 2:
        odd = dice.pick((0, 1, 7, 8, 2**31, 2**63, 2**64 - 1, 100_000_000, 100_000_001))
        return odd.to_bytes(8, "little") + header + data
    if act == 3:
        return content[: 8 + length] + _numbers(dice, data)
    tree = damage.parsed(header.decode())
    if act == 4:
        tree = damage.json_tree(dice, tree)
    elif act == 5:
        _metadata(dice, tree)
    else:
        _tensor(dice, tree)
    text = damage.rendered(tree).encode()
    return len(text).to_bytes(8, "little") + text + data


def _numbers(dice: Dice, data: bytes) -> bytes:
    """Weights with a number that is none, or another one."""
    found = bytearray(data)
    odd = dice.pick((np.nan, np.inf, -np.inf, 1e38, 0.0, 1.5))
    at = 4 * dice.below(max(1, len(found) // 4))
    found[at : at + 4] = np.float32(odd).tobytes()
    return bytes(found) + (dice.octets(8) if dice.one_in(4) else b"")


def _metadata(dice: Dice, tree: Pairs) -> None:
    """Change the JSON that stands as text in the metadata."""
    for at, (key, value) in enumerate(tree):
        if key != "__metadata__":
            continue
        labels = Pairs(value)
        where = dice.below(len(labels))
        name, text = labels[where]
        if text.startswith("{"):
            text = damage.rendered(damage.json_tree(dice, damage.parsed(text)))
        else:
            text = dice.pick(("", "0", "-1", "²", "1" * 5000, "torch", "nonsense", "\x00"))
        labels[where] = (name, text)
        tree[at] = (key, labels)


def _tensor(dice: Dice, tree: Pairs) -> None:
    """Change the type, shape, place or name of a tensor."""
    places = [at for at, (key, _) in enumerate(tree) if key != "__metadata__"]
    at = dice.pick(places)
    name, about = tree[at]
    fields = dict(about)
    act = dice.below(6)
    if act == 0:
        fields["dtype"] = dice.pick(DTYPES)
    elif act == 1:
        fields["shape"] = [dice.pick(ABSURD) for _ in range(dice.below(5))]
    elif act == 2:
        fields["data_offsets"] = [dice.pick(ABSURD), dice.pick(ABSURD)]
    elif act == 3:
        fields["shape"] = fields["shape"][::-1] if dice.one_in(2) else [1] * dice.pick((1, 65, 999))
    elif act == 4:
        name = dice.pick(("../../evil", "/etc/passwd", "", "__metadata__", "a\x00b", "n" * 3000))
    else:
        tree.append((name, Pairs(fields.items())))  # the same name twice
    tree[at] = (name, Pairs(fields.items()))


# --- archives and pickles ------------------------------------------------------------------


def npy(dice: Dice, content: bytes) -> bytes:
    """A .npy file: its header's words, its bytes, or one with objects in it."""
    act = dice.below(4)
    if act == 0:
        return damage.octets(dice, content, (b"'|O'", b"'<f8'", b"True", b"(28, 28)"))
    if act == 1:
        return _npy_header(dice, content)
    if act == 2:
        shape = dice.pick(((28, 28), (28,), (), (0, 28), (28, 28, 3), (29, 28)))
        kind = dice.pick(("u1", "f4", "f8", ">f8", "i8", "c16", "?", "U3", "M8[s]", "f2", "V7"))
        return samples.npy(np.ones(shape, dtype=np.int8).astype(kind))
    array = np.full((28, 28), dice.pick((np.nan, np.inf, -1.0, 1.0, 300.0)), dtype=np.float64)
    return samples.npy(array)


def _npy_header(dice: Dice, content: bytes) -> bytes:
    """A header that lies about type and shape."""
    kind = dice.pick(("|u1", "|O", "<f8", "|V8", "<U9999999", "O", "|S0", "<M8[D]", "evil", "<c32"))
    shape = tuple(dice.pick(ABSURD) for _ in range(dice.below(4)))
    fields = {"descr": kind, "fortran_order": dice.one_in(2), "shape": shape}
    text = dice.pick((repr(fields), "(" * 3000, "__import__('os')", "{}", "9" * 6000, "[" * 200))
    version = dice.pick(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    body = text.encode() + b"\n"
    length = len(body).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + body + content[-784:]


def _zip(members: dict[str, bytes], packed: bool = False) -> bytes:
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return file.getvalue()


def npz(dice: Dice, content: bytes) -> bytes:
    """A .npz file: bytes of the archive, or members that are not what they should be."""
    act = dice.below(5)
    if act < 2:
        return damage.octets(dice, content, (b"PK\x01\x02", b"PK\x05\x06", b".npy"))
    if act == 2:
        return dice.pick(samples.pickles())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = dice.pick(sorted(members))
    if act == 3:
        members[name] = npy(dice, members[name])
    else:
        new = dice.pick(("../../evil.npy", "/tmp/evil.npy", "a\x00b.npy", "x", "", "core.Wx.npy"))  # noqa: S108
        members[new] = dice.pick((*samples.pickles(), members[name], b"", bytes(2**20)))
    if dice.one_in(100):
        return _zip_bomb()
    return _zip(members, packed=True)


def pt(dice: Dice, content: bytes) -> bytes:
    """A .pt file: bytes of the archive, a pickle alone, or one in an archive like torch's."""
    act = dice.below(4)
    if act < 2:
        return damage.octets(
            dice, content, (b"PK\x01\x02", b"data.pkl", b"cposix\nsystem\n", b"R.")
        )
    evil = dice.pick(samples.pickles())
    if act == 2:
        return evil
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    new = damage.octets(dice, members[pickled], (b"cbuiltins\nexec\n", b"R.", b"c__main__\nx\n"))
    members[pickled] = evil if dice.one_in(3) else new
    return _zip(members)


def _of(name: str, make: Any) -> Any:
    """Damage to one file of two, or to the spec beside it."""

    def spoil(dice: Dice, tree: Tree) -> Tree:
        other = "spec.json"
        if dice.one_in(10):
            return rearranged(dice, tree)
        if dice.one_in(6):
            return {**tree, other: damage.json_text(dice, unpacked(tree[other]))}
        return {**tree, name: make(dice, unpacked(tree[name]))}

    return spoil


npz_or_spec, pt_or_spec = _of("weights.npz", npz), _of("weights.pt", pt)


# --- images --------------------------------------------------------------------------------


def images(dice: Dice, tree: Tree) -> Tree:
    """A dataset's folder: an IDX file below its packing, or packed, or no plain file."""
    if dice.one_in(10):
        return rearranged(dice, tree)
    name = dice.pick(sorted(tree))
    stored = tree[name] if isinstance(tree[name], bytes) else b""
    content = unpacked(tree[name])
    act = dice.below(6)
    if act == 0 and isinstance(stored, bytes):
        new = damage.octets(dice, stored)
    elif act == 1:
        new = content[:4] + b"".join(
            (dice.pick(ABSURD) % 2**32).to_bytes(4, "big") for _ in range(content[3])
        ) + content[4 + 4 * content[3] :]  # fmt: skip
    elif act == 2 and dice.one_in(20):
        new = gzip.compress(content, 1, mtime=0) + _bomb()
    else:
        new = damage.octets(dice, content)
        new = gzip.compress(new, 1, mtime=0) if dice.one_in(2) else new
    return {**tree, name: new}


@cache
def _blanks(size: int) -> bytes:
    return zlib.compress(bytes(size))


@cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)  # in parts: making it must not take the memory either
    parts = [packer.compress(bytes(2**20)) for _ in range(BOMB // 2**20)]
    return b"".join(parts) + packer.flush()


@cache
def _zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo("core.Wx.npy")
        member.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(member, "w") as part:
            part.write(samples.npy()[:128])
            for _ in range(BOMB // 2**20):
                part.write(bytes(2**20))
    return file.getvalue()


def png(dice: Dice, content: bytes) -> bytes:
    """A .png file: bytes, another mode, or chunks with sizes that lie and right checksums."""
    act = dice.below(4)
    if act == 0:
        return samples.png(dice.pick(("L", "1", "P", "RGB", "RGBA", "LA", "I;16")))
    if act == 1:
        return damage.octets(dice, content, (b"IHDR", b"IDAT", b"tEXt", b"iCCP", b"acTL"))
    width, height = dice.pick(ABSURD) % 2**32, dice.pick(ABSURD) % 2**32
    kinds = bytes([dice.pick((1, 8, 16)), dice.pick((0, 2, 3, 4, 6)), 0, 0, dice.below(2)])
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + kinds
    body = b"IDAT" + _blanks(2**20)
    if act == 3:
        head = b"IHDR" + (28).to_bytes(4, "big") * 2 + kinds
        body = dice.pick((b"iCCP", b"zTXt", b"IDAT")) + b"x\x00\x00" + _blanks(2**22)
    chunks = [head, body, damage.octets(dice, b"IDAT" + content[41:-16]), b"IEND"]
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


def toml(dice: Dice, content: bytes) -> bytes:
    """A TOML file: bytes, words of the format, or whole lines."""
    if dice.one_in(2):
        return damage.lines(dice, content, _value)
    return damage.octets(dice, content, TOML_WORDS)


def _value(dice: Dice, line: bytes) -> bytes:
    key, equals, _ = line.partition(b"=")
    if not equals or dice.one_in(4):
        return damage.octets(dice, line, TOML_WORDS)
    return key + b"= " + dice.pick(TOML_WORDS)


def either_sweep(dice: Dice, tree: Tree) -> Tree:
    """A grid's file or a search's, damaged."""
    return {"sweep.toml": toml(dice, dice.pick((samples.SWEEP, samples.SEARCH)))}


def examples(dice: Dice, content: bytes) -> bytes:
    """Strings typed by hand."""
    words = (b"??", b"a1", b"\n", b"\r", "é".encode(), "\u2028".encode(), b"\x00", b"z9" * 30)
    return damage.octets(dice, content, words)


def pointer(dice: Dice, content: bytes) -> bytes:
    """A pointer to a checkpoint."""
    if dice.one_in(2):
        return damage.octets(dice, content)
    return dice.pick((
        b"../../outside", b"/etc", b"step-99999999", b"step-00000002/..", b".", b"", b"\xff\xfe",
        b"step-00000002\nstep-00000003", "step-\uff100000002".encode(), b"step-00000003\x00",
    ))  # fmt: skip


# --- the whole command ---------------------------------------------------------------------

CODES = (0, 1, 2, 3, 4, 5)  # what `fwt --help` lists, but interruption
COMMANDS = (
    ("predict", "{}", "c9k8??c"), ("inspect", "{}", "--example", "c9k8??c", "--json"),
    ("plot", "{}", "--out", "{}/out.svg"), ("convert", "{}", "{}/out", "--to", "torch"),
    ("eval", "{}", "--backend", "numpy"),
)  # fmt: skip


def run_and_command() -> Tree:
    """A run, and which commands are to read it."""
    return {**samples.run(), "command": bytes(range(len(COMMANDS)))}


def any_run(dice: Dice, tree: Tree) -> Tree:
    """Such a run, damaged."""
    from tools.fuzz.readers import folder_of

    return {**folder_of(dice, samples.run()), "command": bytes([dice.below(len(COMMANDS))])}


def command(folder: Path) -> None:
    """Run commands on the folder in this process; each must end with a code of the list."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for number in (folder / "command").read_bytes():
        _command(folder, COMMANDS[number])


def _command(folder: Path, words: Sequence[str]) -> None:
    from fwt.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([word.format(folder) for word in words])
    if code not in CODES:
        raise Broken(f"exit code {code}")
    if code and not err.getvalue().startswith(("error: ", "warning: ")):
        raise Broken(f"exit code {code} and stderr {err.getvalue()!r}")
    if code == 0 and ("nan" in out.getvalue() or "inf" in out.getvalue().split()):
        raise Broken(f"numbers that are none: {out.getvalue()[:300]!r}")
