"""Fork a text into branches that share what stands before them, and join them again.

The prompt is computed once; each branch adds only its own tokens.
"""

import sgrt

SIDES = ["for", "against"]


@sgrt.function
def debate(s, question):
    s += sgrt.system("You are a careful adviser who answers in one short sentence.")
    s += sgrt.user(question)
    with s.fork(len(SIDES)) as branches:
        branches += lambda i: sgrt.assistant(
            f"One reason {SIDES[i]} it is that" + sgrt.gen("reason", max_tokens=24, stop=".")
        )
    s += sgrt.assistant("On balance I would say: " + sgrt.select("verdict", ["yes", "no"]))


if __name__ == "__main__":
    state = debate.run(question="Should a small town build a tram?", temperature=0)
    for side, reason in zip(SIDES, state["reason"], strict=True):
        print(f"{side}: {reason.strip()}")
    print(f"verdict: {state['verdict']}")
    usage = state.usage()
    print(f"{usage.cached} of {usage.prompt} prompt tokens came from the cache")
