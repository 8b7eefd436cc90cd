"""Read a value while the model is still writing it."""

import sgrt


@sgrt.function
def story(s, subject):
    s += sgrt.user(f"Tell a story about {subject} in three sentences.")
    s += sgrt.assistant(sgrt.gen("story", max_tokens=96, temperature=0))


if __name__ == "__main__":
    state = story.run(subject="a lighthouse", stream=True)
    for piece in state.text_iter("story"):
        print(piece, end="", flush=True)
    print()
