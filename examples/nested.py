"""Nested objects from free text: a pydantic model says what there is, the value is validated."""

from pydantic import BaseModel, Field

import sgrt

TEXTS = [
    "Anna Berg is 31 years old. Her home is Oslo in Norway. Her hobbies are chess and violin.",
    "Marco Rossi is 45 years old. His home is Turin in Italy. His hobby is cooking.",
]


class Place(BaseModel):
    city: str = Field(max_length=30)
    country: str = Field(max_length=30)


class Person(BaseModel):
    name: str = Field(max_length=40)
    age: int = Field(ge=0, le=120)
    home: Place
    hobbies: list[str] = Field(min_length=1, max_length=4)


@sgrt.function
def read(s, text) -> Person:
    s += sgrt.system("You copy facts from a text into a record.")
    s += sgrt.user(text)
    s += sgrt.assistant(
        sgrt.gen("person", output=Person, max_tokens=80, temperature=0, finish="close")
    )
    return s["person"]


if __name__ == "__main__":
    for state in read.run_batch([{"text": text} for text in TEXTS]):
        person = state.value
        print(f"{person.name}, {person.age}, {person.home.city} ({person.home.country}):")
        print(f"  {', '.join(person.hobbies)}")
