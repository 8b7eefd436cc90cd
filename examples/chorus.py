"""Several programs at once in one event loop, their texts as they come."""

import asyncio

import sgrt

SUBJECTS = ["a lighthouse", "a lost key", "the first snow"]


@sgrt.function
async def verse(s, subject):
    s += sgrt.user(f"One sentence about {subject}.")
    s += sgrt.assistant(sgrt.gen("line", max_tokens=24, temperature=0))
    if "snow" in await s.get("line"):  # an async program awaits what it reads
        s += sgrt.user("Colder?")
        s += sgrt.assistant(sgrt.select("colder", ["yes", "no"]))


async def follow(subject: str) -> None:
    pieces = []
    async for event in verse.astream(subject=subject):
        if event.variable == "line":
            pieces.append(event.text)
    print(f"{subject}: {''.join(pieces).strip()} ({len(pieces)} pieces)")


async def main() -> None:
    await asyncio.gather(*(follow(subject) for subject in SUBJECTS))


if __name__ == "__main__":
    asyncio.run(main())
