"""Short texts in few bits: any text comes back, none grows, garbage stops, and both ends have the very same model."""

import hashlib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transports.lowband.rangecoder import AdaptiveNumber, Decoder, Encoder
from transports.lowband.text import TextError, decode_text, encode_text, model, text_model_hash
from transports.lowband.text.alphabet import CodeTree, code_lengths, symbols_of, text_of

HELD_OUT = (Path(__file__).parents[1] / "data" / "chat_held_out.txt").read_text(encoding="utf-8").splitlines()
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text("abc ABC'.?\n", max_size=80),
    st.text(st.characters(min_codepoint=0x10000), max_size=20),
    st.lists(st.sampled_from(["Hello", "THE", "you", "are", "ok?", "naïve", "да", "😂", "\n", "\0"]), max_size=20).map(" ".join),
)


def packed(text, **how):
    encoder = Encoder()
    encode_text(encoder, text, **how)
    return encoder.finish()


def unpacked(data, **how):
    return decode_text(Decoder(data), **{"max_length": 65536, **how})


@settings(deadline=None)
@given(TEXTS, st.lists(TEXTS, max_size=3), st.booleans())
@example("", [], True)
@example("Aa aA AAA \x7f", ["\0"], True)
@example("\U0010ffff", ["a" * 500], False)
def test_any_text_comes_back_and_is_at_most_two_bytes_longer(text, context, modelled):
    data = packed(text, context=context, modelled=modelled)
    assert unpacked(data, context=context) == text
    assert len(data) <= len(text.encode()) + 2


@pytest.mark.parametrize("text", ["and so on, " * 180, "xyz" * 5000, "Ω" * 900, "".join(chr(0x4E00 + 7 * n) for n in range(3000))])
def test_long_texts_come_back_smaller(text):
    data = packed(text)
    assert unpacked(data) == text
    assert len(data) < len(text.encode()) * 3 / 4


def test_texts_stand_among_other_fields():
    encoder, number = Encoder(), AdaptiveNumber()
    for text in ("first", "", "the second, longer one"):
        number.code(encoder, len(text))
        encode_text(encoder, text)
    number.code(encoder, 7)
    decoder, number = Decoder(encoder.finish()), AdaptiveNumber()
    for text in ("first", "", "the second, longer one"):
        assert number.code(decoder) == len(text)
        assert decode_text(decoder, max_length=100) == text
    assert number.code(decoder) == 7


@settings(deadline=None)
@given(st.binary(max_size=60), st.integers(0, 300))
def test_any_bytes_decode_to_a_bounded_text_or_an_error(data, max_length):
    try:
        text = unpacked(data, max_length=max_length)
    except TextError:
        return
    assert len(text.encode()) <= max_length


@pytest.mark.parametrize("text", HELD_OUT[:20])
def test_a_truncated_text_is_some_other_text_or_an_error(text):
    data = packed(text)
    for end in range(len(data)):
        try:
            assert unpacked(data[:end], max_length=400) != text
        except TextError:
            continue


def test_a_text_longer_than_the_receiver_allows_is_refused():
    for text in ("hello there", "привет", "x" * 3000):
        with pytest.raises(TextError):
            unpacked(packed(text), max_length=len(text.encode()) - 1)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TextError):
        packed("\ud800")


def test_chat_that_the_model_has_not_seen_costs_little():
    sizes = [len(packed(text)) for text in HELD_OUT]
    characters = sum(map(len, HELD_OUT))
    assert 8 * sum(sizes) / characters < 2.4


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("Kannst du mir bitte morgen früh die Schlüssel vorbeibringen?", 0.75),
        ("¿Dónde estás? Te estoy esperando en la estación desde hace media hora", 0.75),
        ("Merci beaucoup, à demain !", 0.75),
        ("Я буду дома через полчаса, купи хлеба", 0.55),
        ("أنا في الطريق، سأصل بعد عشر دقائق", 0.55),
        ("我们明天早上八点在车站见面吧", 1.0),
        ("WATER IS RISING, LEAVE NOW", 0.65),
        ("https://matrix.org/blog/2024/06/20/matrix-v1.11-release/", 0.8),
        ("aGVsbG8gd29ybGQgdGhpcyBpcyBiYXNlNjQ=", 1.0),
        ("see you at 8 😂", 0.65),
    ],
)
def test_other_languages_and_signs_are_still_smaller_than_utf8(text, share):
    assert len(packed(text)) <= share * len(text.encode())
    assert unpacked(packed(text)) == text


def test_what_was_said_before_makes_its_words_cheaper():
    text = "Szczepanski will be in Wroclaw on Friday"
    context = ["is Szczepanski in Wroclaw?"]
    data = packed(text, context=context)
    assert len(data) < len(packed(text)) - 3
    assert unpacked(data, context=context) == text


def test_coding_leaves_the_tables_as_they_were():
    shipped = model.shipped()

    def trained():
        return hashlib.sha256(shipped.stretches.tobytes() + repr(shipped.weights).encode()).digest()

    before, first = trained(), packed("the same again and again")
    packed("something else in between", context=["and before it"])
    unpacked(first)
    assert packed("the same again and again") == first
    assert trained() == before


def test_the_tables_are_named_by_their_file_and_small():
    folder = Path(model.__file__).parent / "tables"
    file = (folder / f"{(folder / 'current.txt').read_text().strip()}.text").read_bytes()
    assert text_model_hash() == hashlib.sha256(file).digest()[:4]
    assert len(file) < 2_500_000
    shipped = model.shipped()
    assert sum(3 * len(trie) for trie in (shipped.symbols, shipped.words)) < 8_000_000
    assert (folder / "NOTICE").exists()


def test_a_code_tree_has_a_leaf_for_every_symbol():
    tree = CodeTree(code_lengths([1 + n * n for n in range(256)]))
    assert sorted(tree.symbols) == list(range(256))
    for symbol in range(256):
        at = tree.root
        while at < 256:
            at = tree.upper[at] if tree.ranks[symbol] >= at else tree.lower[at]
        assert tree.symbols[at - 256] == symbol


@given(st.text("aAzZ bB19\n"))
def test_capitals_become_marks_and_come_back(text):
    symbols = symbols_of(text.encode())
    assert symbols is not None
    assert text_of(symbols) == text.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "ff"),
        ("ok", "8d40"),
        ("Hello World", "50ad25"),
        ("hey, are you coming tonight?", "6fece49a9f64a6c0e0"),
        ("Привет, как дела?", "faf0987750cb81277ce50f1519a2a4ce98"),
        ("NUL \0 has no symbol", "f376d312df65ccdb64979fe03c8a33b0"),
        ("see you at 8 😂", "8744c272971516"),
    ],
)
def test_the_bits_of_a_text_are_those_of_every_other_end_with_these_tables(text, expected):
    """If this fails, the model has changed: raise its version, or train again, so that peers see another hash."""
    assert text_model_hash().hex() == "44b02ce3"
    assert packed(text).hex() == expected
    assert unpacked(bytes.fromhex(expected)) == text


def test_the_tables_are_those_that_their_name_says() -> None:
    name = model.shipped_hash().hex()
    assert name == model.name_of(resources.files("transports.lowband.text").joinpath("tables", f"{name}.text").read_bytes())
