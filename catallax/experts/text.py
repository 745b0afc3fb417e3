"""Texts to learn from, as bytes: one domain per file, the last part of each kept from training."""

import dataclasses
import functools
import gzip
import sysconfig
from collections.abc import Iterable, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from ..errors import InputError

LEAST = 4096
"""A text of fewer bytes teaches nothing and cannot be split."""

DOMAIN_BYTES = 2_000_000
"""At most so many bytes of each of the machine's own texts are taken, in order of their files' names."""

LICENCES = Path("/usr/share/common-licenses")
"""Where Debian and its relatives keep the texts of licences."""

CLASSES = ("vowel", "consonant", "capital", "digit", "space", "newline", "punctuation", "other")
"""Classes of bytes: small vowels and consonants, capitals, digits, blanks, ends of line, marks, all else."""


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Texts of one or several domains.

    Args:
        names: The domains' names, each once.
        texts: Each domain's bytes.
    """

    names: tuple[str, ...]
    texts: tuple[UInt8[np.ndarray, " bytes"], ...]

    def __post_init__(self):
        if not self.names or len(self.names) != len(self.texts) or len(set(self.names)) != len(self.names):
            raise ValueError("a corpus has at least one domain, and each domain one text and a name of its own")

    def __len__(self) -> int:
        """How many domains there are."""
        return len(self.names)

    @property
    def size(self) -> int:
        """How many bytes there are in all."""
        return sum(len(text) for text in self.texts)


def read_texts(paths: Iterable[str | PathLike[str]], *, least: int = LEAST) -> Corpus:
    """Read texts: each file is a domain; a folder is one too, its text files joined in order of their names.

    Args:
        paths: Files and folders. A folder's files that hold a NUL byte are left out.
        least: The fewest bytes that a domain may have.

    Raises:
        InputError: naming the file that is missing, empty, too short or not a text.
    """
    found = [Path(path) for path in paths]
    if not found:
        raise InputError("no text was given")
    names = [path.name for path in found]
    names = [name if names.count(name) == 1 else str(path) for name, path in zip(names, found, strict=True)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError("is given twice; each domain must be another text", file=twice)
    return Corpus(tuple(names), tuple(_read(path, least) for path in found))


def _read(path: Path, least: int) -> np.ndarray:
    try:
        content = _folder(path) if path.is_dir() else path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from None
    if not content:
        raise InputError("is empty; give a text to learn from", file=path)
    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(f"is not a text: byte {nul + 1:,} is NUL; give plain text", file=path)
    if len(content) < least:
        raise InputError(f"has {len(content):,} bytes; a text to learn from needs {least:,} at least", file=path)
    return np.frombuffer(content, np.uint8)


def _folder(path: Path, most: int | None = None, pattern: str = "*") -> bytes:
    """The text files below a folder, joined; reading stops when there are `most` bytes."""
    parts, size = [], 0
    for file in sorted(path.rglob(pattern)):
        if most is not None and size >= most:
            break
        if file.is_file():
            content = file.read_bytes()
            if b"\0" not in content:
                parts.append(content)
                size += len(content)
    return b"".join(parts)[:most]


def plays() -> Corpus:
    """The embedded text: plays of Shakespeare, 1,115,394 bytes (data/README.md says where from)."""
    packed = resources.files("catallax.experts").joinpath("data", "plays.txt.gz").read_bytes()
    return Corpus(("plays",), (np.frombuffer(gzip.decompress(packed), np.uint8),))


def machine_domains(most: int = DOMAIN_BYTES) -> Corpus:
    """Three domains that every machine has: plays, Python source, and C headers or the texts of licences.

    The embedded plays; the modules of the running interpreter's standard library; the headers that it is extended
    with, and where it has none the licences of a Debian-like system. They differ from machine to machine: results
    are comparable on one machine only.

    Args:
        most: At most so many bytes of each domain.

    Raises:
        InputError: if the machine has neither headers nor licences.
    """
    library, headers = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("include"))
    found = {"plays": plays().texts[0][:most].tobytes()}
    # Only the library's own top folder: site-packages and the test suite lie below it, and differ more.
    parts = (file.read_bytes() for file in sorted(library.glob("*.py")))
    found["python"] = b"".join(parts)[:most]
    for name, folder, pattern in (("headers", headers, "*.h"), ("licences", LICENCES, "*")):
        content = _folder(folder, most, pattern) if folder.is_dir() else b""
        if len(content) >= LEAST:
            found[name] = content
            break
    else:
        raise InputError("this machine has neither Python's C headers nor texts of licences; give texts of your own")
    return Corpus(tuple(found), tuple(np.frombuffer(content, np.uint8) for content in found.values()))


def split(corpus: Corpus, share: float = 0.1) -> tuple[Corpus, Corpus]:
    """Split by file position: the last `share` of each domain validates, what comes before trains.

    Raises:
        ValueError: if the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1")
    cuts = [len(text) - int(share * len(text)) for text in corpus.texts]
    parts = list(zip(corpus.texts, cuts, strict=True))
    return (
        Corpus(corpus.names, tuple(text[:cut] for text, cut in parts)),
        Corpus(corpus.names, tuple(text[cut:] for text, cut in parts)),
    )


def check(corpus: Corpus, context: int) -> None:
    """See that every domain holds a window.

    Raises:
        InputError: naming the domain that is too short.
    """
    for name, text in zip(corpus.names, corpus.texts, strict=True):
        if len(text) <= context:
            raise InputError(
                f"{name} has {len(text):,} bytes here, but a window takes {context + 1:,}; "
                "give a longer text or a shorter context"
            )


def draw(
    corpus: Corpus, seed: int, step: int, count: int, context: int
) -> tuple[UInt8[np.ndarray, "count context+1"], Int[np.ndarray, " count"]]:
    """Windows of batch number `step`, drawn from (seed, step) alone: the domains take turns, each place is as likely.

    No domain has more than one window more than another, in a batch as in all batches up to it: loads then differ from
    batch to batch by what the texts say, not by which of them were drawn.

    Returns:
        Bytes (count, context + 1), the last of each window only ever a target; and each window's domain.
    """
    random = np.random.default_rng([seed, step])
    domain = random.permutation((step * count + np.arange(count)) % len(corpus))
    place = random.random(count)
    room = np.array([len(text) - context for text in corpus.texts])
    starts = (place * room[domain]).astype(np.int64)
    cut = [corpus.texts[d][s : s + context + 1] for d, s in zip(domain, starts, strict=True)]
    return np.stack(cut), domain.astype(np.int32)


def windows(
    corpus: Corpus, context: int, most: int | None = None
) -> tuple[UInt8[np.ndarray, "count context+1"], Int[np.ndarray, " count"]]:
    """Cut a corpus into windows, equally many of each domain, evenly spaced; the domains take turns.

    Args:
        corpus: Every domain longer than `context`.
        context: The bytes that a window predicts; windows overlap by the one byte that is only read.
        most: At most so many windows of each domain.

    Returns:
        Bytes (windows, context + 1) and each window's domain.
    """
    count = min((len(text) - 1) // context for text in corpus.texts)
    count = count if most is None else min(count, most)
    cut = np.empty((count, len(corpus), context + 1), np.uint8)
    for domain, text in enumerate(corpus.texts):
        whole = (len(text) - 1) // context
        for number, place in enumerate(np.arange(count) * whole // count):
            cut[number, domain] = text[place * context : (place + 1) * context + 1]
    return cut.reshape(-1, context + 1), np.tile(np.arange(len(corpus), dtype=np.int32), count)


@functools.cache
def _classes() -> np.ndarray:
    table = np.full(256, CLASSES.index("other"), np.uint8)
    members: Sequence[tuple[str, bytes]] = (
        ("punctuation", bytes(code for code in range(33, 127))),
        ("consonant", bytes(range(ord("a"), ord("z") + 1))),
        ("vowel", b"aeiou"),
        ("capital", bytes(range(ord("A"), ord("Z") + 1))),
        ("digit", b"0123456789"),
        ("space", b" \t"),
        ("newline", b"\n\r"),
    )
    for name, codes in members:
        table[np.frombuffer(codes, np.uint8)] = CLASSES.index(name)
    return table


def byte_class(codes: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """The class of each byte, an index into `CLASSES`; of the same shape."""
    return _classes()[codes]
