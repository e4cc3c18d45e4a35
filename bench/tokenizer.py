"""Speed of the compiled tokenizer against the `tokenizers` library, on one thread.

    python bench/tokenizer.py

Each round encodes all documents once with the library and once with the engine, one after the
other; the table shows medians. The library is asked through its fastest call (`encode_batch_fast`:
ids, no offsets) with its thread pool switched off; it keeps a cache of words, which is warm after
the first round. The engine has no cache. Both must give the same number of ids.
"""

import importlib
import inspect
import os
import pydoc_data.topics
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

import tokenizers

from bench.record import machine
from bitnet.tokenizer import compile_tokenizer
from tests.support.tokenizer_driver import Driver, build_driver
from tests.support.vocabularies import vocabulary

__all__ = ["measure", "print_table"]

VOCABULARIES: Final = ("llama3", "qwen3")
ROUNDS: Final = 7
DOCUMENT_CHARACTERS: Final = 4000
CODE_MODULES: Final = (
    "argparse", "ast", "_pydecimal", "difflib", "doctest", "inspect", "mailbox", "optparse",
    "tarfile", "typing",
)  # fmt: skip
# Article 1 of the Universal Declaration of Human Rights, one language a line.
LANGUAGES: Final = """\
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft begabt.
Todos los seres humanos nacen libres e iguales en dignidad y derechos, dotados de razón.
Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler.
Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.
Minden emberi lény szabadon születik és egyenlő méltósága és joga van.
"""


def english_text() -> str:
    """The reference of the Python language, as it comes with Python: long English prose."""
    return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))


def code_text() -> str:
    """Modules of Python's standard library."""
    return "\n".join(inspect.getsource(importlib.import_module(name)) for name in CODE_MODULES)


def multilingual_text() -> str:
    """Words of all languages in random sentences of one language each."""
    generator = random.Random(1)
    languages = [line.split() for line in LANGUAGES.splitlines()]
    sentences = []
    for _ in range(6000):
        words = generator.choice(languages)
        sentences.append(" ".join(generator.choices(words, k=generator.randrange(4, 20))))
    return "\n".join(sentences)


TEXTS: Final = {"english": english_text, "code": code_text, "multilingual": multilingual_text}


def documents_of(text: str) -> list[str]:
    """The text in pieces of the size of a prompt."""
    step = DOCUMENT_CHARACTERS
    return [text[begin : begin + step] for begin in range(0, len(text), step)]


def time_library(tokenizer: tokenizers.Tokenizer, documents: list[str]) -> tuple[int, float]:
    """Ids of all documents together, and seconds."""
    begin = time.perf_counter()
    encodings = tokenizer.encode_batch_fast(documents, add_special_tokens=False)
    seconds = time.perf_counter() - begin
    return sum(len(encoding.ids) for encoding in encodings), seconds


def compare(
    tokenizer: tokenizers.Tokenizer, driver: Driver, documents: list[str]
) -> dict[str, Any]:
    """Medians and spread of both, in interleaved rounds after one to warm up."""
    data = [document.encode() for document in documents]
    size = sum(map(len, data))
    seconds: dict[str, list[float]] = {"library": [], "engine": []}
    for number in range(ROUNDS + 1):
        library_ids, library_seconds = time_library(tokenizer, documents)
        engine_ids, nanoseconds = driver.time(data)
        if library_ids != engine_ids:
            sys.exit(f"error: ids differ: library {library_ids}, engine {engine_ids}")
        if number > 0:
            seconds["library"].append(library_seconds)
            seconds["engine"].append(nanoseconds / 1e9)
    return {
        "bytes": size,
        "ids": engine_ids,
        "documents": len(data),
        "rounds": ROUNDS,
        **{
            f"{name}_{what}_mb_per_s": round(function(size / value / 1e6 for value in values), 3)
            for name, values in seconds.items()
            for what, function in (("median", statistics.median), ("min", min), ("max", max))
        },
    }


def measure() -> Iterator[dict[str, Any]]:
    """Yields one record for each vocabulary and text."""
    facts = {**machine(), "library": f"tokenizers {tokenizers.__version__}"}
    documents = {name: documents_of(make()) for name, make in TEXTS.items()}
    for name in VOCABULARIES:
        file = vocabulary(name)
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
        driver = build_driver(compile_tokenizer(file, chat=False))
        for text, pieces in documents.items():
            case = {"bench": "tokenizer", "vocabulary": name, "text": text}
            yield {**case, **compare(tokenizer, driver, pieces), **facts}


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Prints medians and their ratio."""
    print("vocabulary  text          MB/s library  MB/s engine  ratio  bytes per id")
    for row in records:
        library, engine = row["library_median_mb_per_s"], row["engine_median_mb_per_s"]
        print(
            f"{row['vocabulary']:<10}  {row['text']:<12}  {library:12.2f}  {engine:11.2f}"
            f"  {engine / library:5.1f}  {row['bytes'] / row['ids']:12.2f}"
        )


if __name__ == "__main__":
    print_table(list(measure()))
