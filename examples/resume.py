"""A batch that survives being killed: run it again, and only what is missing runs."""

import sys
import tempfile
from pathlib import Path

import sgrt

WORDS = ["tree", "river", "moon", "bread"]


@sgrt.function
def translate(s, word):
    s += f"English: house\nFrench: maison\n\nEnglish: {word}\nFrench:"
    s += sgrt.gen("french", max_tokens=6, stop="\n", temperature=0)
    return s["french"].strip()


def run(journal: Path) -> list[str]:
    """All words; each one once, however often this is called with the same journal."""
    states = translate.run_batch([{"word": word} for word in WORDS], resume=journal)
    return [state.value for state in states]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    journal = folder / "words.jsonl"
    for word, french in zip(WORDS, run(journal), strict=True):
        print(f"{word}: {french}")
    print(f"{len(journal.read_text().splitlines())} lines in the journal")
    assert run(journal) == run(journal)  # answered from the journal
