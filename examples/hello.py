"""The shortest program: a question, and an answer in the model's own words."""

import sgrt


@sgrt.function
def capital(s, country):
    s += sgrt.user(f"What is the capital of {country}?")
    s += sgrt.assistant(sgrt.gen("answer", max_tokens=32, temperature=0))


if __name__ == "__main__":
    print(capital.run(country="France")["answer"])
