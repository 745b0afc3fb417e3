"""Texts: what is read, refused, split, drawn and cut."""

import hashlib
import string

import numpy as np
import pytest

from catallax.errors import InputError
from catallax.experts.text import (
    CLASSES,
    Corpus,
    byte_class,
    check,
    draw,
    machine_domains,
    plays,
    read_texts,
    split,
    windows,
)


def corpus(*sizes):
    """Domains whose bytes say which domain they are of: 16 values each."""
    texts = [(np.arange(size) % 16 + 16 * number).astype(np.uint8) for number, size in enumerate(sizes)]
    return Corpus(tuple(f"domain {number}" for number in range(len(sizes))), tuple(texts))


def test_the_embedded_plays_are_the_text_that_their_note_names():
    text = plays().texts[0].tobytes()
    digest = hashlib.sha256(text).hexdigest()
    assert len(text) == 1_115_394
    assert digest == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def test_files_and_folders_are_domains(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 50)
    folder = tmp_path / "b"
    (folder / "deep").mkdir(parents=True)
    (folder / "two.txt").write_text("2" * 30)
    (folder / "deep" / "one.txt").write_text("1" * 30)
    (folder / "picture").write_bytes(b"\x89PNG\0" * 9)
    found = read_texts([tmp_path / "a.txt", folder], least=50)
    assert found.names == ("a.txt", "b")
    assert found.texts[1].tobytes() == b"1" * 30 + b"2" * 30
    assert found.size == 110


def test_domains_of_one_name_are_told_apart(tmp_path):
    for name in "xy":
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(name * 60)
    paths = [tmp_path / name / "text" for name in "xy"]
    assert read_texts(paths, least=50).names == tuple(map(str, paths))
    with pytest.raises(InputError, match="is given twice"):
        read_texts([paths[0], paths[0]], least=50)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"x" * 4095, "has 4,095 bytes; .* 4,096 at least"),
        (b"x" * 9 + b"\0" * 9999, "byte 10 is NUL"),
    ],
)
def test_what_teaches_nothing_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_texts([path])
    assert caught.value.file == str(path)


def test_a_missing_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_texts([tmp_path / "none"])
    with pytest.raises(InputError, match="no text"):
        read_texts([])


def test_a_split_keeps_every_byte_in_place():
    whole = corpus(1000, 333)
    seen, held = split(whole, 0.1)
    for text, first, last in zip(whole.texts, seen.texts, held.texts, strict=True):
        assert np.array_equal(np.concatenate([first, last]), text)
    assert [len(text) for text in held.texts] == [100, 33]
    with pytest.raises(ValueError, match="share"):
        split(whole, 1.0)
    with pytest.raises(InputError, match="domain 1 has 33 bytes"):
        check(held, 40)


def test_a_batch_depends_on_seed_and_step_alone_and_names_its_domains():
    whole = corpus(500, 60, 900)
    cut, domain = draw(whole, 3, 7, 400, 50)
    again, _ = draw(whole, 3, 7, 400, 50)
    assert np.array_equal(cut, again)
    assert not np.array_equal(cut, draw(whole, 3, 8, 400, 50)[0])
    assert not np.array_equal(cut, draw(whole, 4, 7, 400, 50)[0])
    assert np.array_equal(cut // 16, np.broadcast_to(domain[:, None], cut.shape))
    # The domains take turns from batch to batch, in no order within one.
    seen = np.zeros(3, int)
    for step in range(4):
        domain = draw(whole, 3, step, 16, 50)[1]
        seen += np.bincount(domain, minlength=3)
        assert np.ptp(seen) <= 1 and not np.array_equal(domain[3:], domain[:-3])


def test_every_place_of_a_text_is_drawn():
    text = np.arange(60).astype(np.uint8)
    starts = draw(Corpus(("one",), (text,)), 0, 0, 2000, 50)[0][:, 0]
    assert set(starts) == set(range(10))


def test_windows_follow_one_another_and_domains_take_turns():
    whole = corpus(101, 251)
    cut, domain = windows(whole, 10)
    assert cut.shape == (20, 11)
    assert list(domain[:4]) == [0, 1, 0, 1]
    first = cut[domain == 0]
    assert np.array_equal(np.append(first[:, :-1].reshape(-1), first[-1, -1]), whole.texts[0])
    assert np.array_equal(first[:-1, -1], first[1:, 0])
    assert len(windows(whole, 10, 3)[0]) == 6


def test_classes_are_those_of_python():
    codes = np.arange(256, dtype=np.uint8)
    for code, found in zip(range(256), byte_class(codes), strict=True):
        letter = chr(code)
        assert {
            "vowel": letter in "aeiou",
            "consonant": letter in set(string.ascii_lowercase) - set("aeiou"),
            "capital": letter in string.ascii_uppercase,
            "digit": letter in string.digits,
            "space": letter in " \t",
            "newline": letter in "\n\r",
            "punctuation": letter in string.punctuation,
            "other": letter not in string.ascii_letters + string.digits + string.punctuation + " \t\n\r",
        }[CLASSES[found]], code


def test_every_machine_has_three_domains():
    found = machine_domains(50_000)
    assert found.names[:2] == ("plays", "python")
    assert len(found) == 3
    assert all(4096 <= len(text) <= 50_000 for text in found.texts)
    assert b"import" in found.texts[1].tobytes()
