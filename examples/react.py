"""ReAct: the model asks for a tool, Python runs it, the model goes on with what it said."""

import operator

import sgrt

TOOLS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EXAMPLE = """Question: What is 12 plus 30?
Action: calculate[12 + 30]
Result: 42
Action: finish[42]

"""


@sgrt.function
def react(s, question, steps=3):
    s += EXAMPLE + f"Question: {question}\n"
    for _ in range(steps):
        s += "Action: " + sgrt.select("action", ["calculate", "finish"]) + "["
        if s["action"] == "finish":
            s += sgrt.gen_int("answer") + "]\n"
            return s["answer"]
        s += sgrt.gen_int("left") + " " + sgrt.select("tool", list(TOOLS)) + " "
        s += sgrt.gen_int("right") + "]\n"
        result = s.call(TOOLS[s["tool"]], s["left"], s["right"])  # others go on meanwhile
        s += f"Result: {result}\n"
    return None


if __name__ == "__main__":
    state = react.run(question="What is 57 times 83?", temperature=0)
    print(state.text()[len(EXAMPLE) :])
    print(f"answer: {state.value}")
