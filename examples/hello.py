"""The shortest program: a question, and an answer in the model's own words."""

import sgrt


@sgrt.function
def explain(s, thing):
    s += sgrt.user(f"Explain in one sentence what a {thing} does.")
    s += sgrt.assistant(sgrt.gen("answer", max_tokens=48, temperature=0))


if __name__ == "__main__":
    print(explain.run(thing="compiler")["answer"])
