"""A judge that is sure or unsure: the probabilities of a verdict, with both orders asked."""

import sgrt

QUESTION = "Why is the sky blue?"
ANSWERS = {
    "short": "Air scatters blue light more than red light, so blue reaches us from all sides.",
    "wrong": "Because the sea is blue.",
}


@sgrt.function
def compare(s, question, first, second):
    s += sgrt.system("You judge answers. You say A or B, nothing else.")
    s += sgrt.user(f"Question: {question}\nA: {first}\nB: {second}\nWhich answer is better?")
    s += sgrt.assistant(sgrt.select("verdict", ["A", "B"]))


def preference(question: str, one: str, other: str) -> float:
    """How likely the judge prefers one over the other; the mean of both orders."""
    there, back = compare.run_batch([(question, one, other), (question, other, one)])
    return (there.probabilities("verdict")["A"] + back.probabilities("verdict")["B"]) / 2


if __name__ == "__main__":
    (a, first), (b, second) = ANSWERS.items()
    share = preference(QUESTION, first, second)
    print(f"{a} {share:.0%}, {b} {1 - share:.0%}")
