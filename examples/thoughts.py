"""Tree of thought: several ideas side by side, each judged, the best one followed."""

import sgrt

WIDTH = 3


@sgrt.function
def solve(s, problem):
    s += sgrt.system("You solve problems in small steps.")
    s += sgrt.user(f"{problem} Give one idea, in one sentence.")
    ideas = s.fork(WIDTH)
    ideas += sgrt.assistant(sgrt.gen("idea", max_tokens=24, stop="\n", temperature=0.9))
    ideas += sgrt.user("Is this idea any good?")
    ideas += sgrt.assistant(sgrt.select("good", ["yes", "no"]))
    chances = [idea.probabilities("good")["yes"] for idea in ideas]
    ideas.join()
    s["chances"] = chances
    s["best"] = s["idea"][chances.index(max(chances))]
    s += sgrt.assistant(s["best"])
    s += sgrt.user("How do I begin?")
    s += sgrt.assistant(sgrt.gen("first_step", max_tokens=24, stop="\n", temperature=0))


if __name__ == "__main__":
    state = solve.run(problem="My room is too dark to read in.", seed=1)
    for idea, chance in zip(state["idea"], state["chances"], strict=True):
        print(f"{chance:.0%}  {idea.strip()}")
    print(f"followed: {state['best'].strip()}")
    print(f"first step: {state['first_step'].strip()}")
