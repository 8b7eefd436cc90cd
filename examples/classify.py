"""Let the model choose, and see how sure it was: `select` gives the probability of each option."""

import sgrt

REVIEWS = [
    "The soup was cold and the waiter rude. Never again.",
    "What a lovely evening, and the best bread in town!",
    "They lost our booking, then sat us beside the bins.",
]


@sgrt.function
def sentiment(s, review):
    s += f"Review: What a wonderful place.\nThe review is positive\n\nReview: {review}\nThe review is"
    s += sgrt.select("mood", [" positive", " negative"])


if __name__ == "__main__":
    states = sentiment.run_batch([{"review": review} for review in REVIEWS])
    for review, state in zip(REVIEWS, states, strict=True):
        chances = ", ".join(f"{o.strip()} {p:.0%}" for o, p in state.probabilities("mood").items())
        print(f"{review}\n  {state['mood'].strip()} ({chances})")
