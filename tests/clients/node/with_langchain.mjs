// LangChain.js: structured output by every method, tools, streams, conversations.
import { HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { BASE, KEY, MODEL, Person, QUESTION, TOO_LONG, assert, raised, run } from "./harness.mjs";

const keep = tool(async (person) => `kept ${person.name}`, {
  name: "person",
  description: "Keeps one.",
  schema: Person,
});

function checks(name, fields) {
  const model = new ChatOpenAI({
    model: MODEL,
    apiKey: KEY,
    configuration: { baseURL: BASE },
    maxTokens: 90,
    maxRetries: 0,
    temperature: 0,
    ...fields,
  });
  const all = {
    async "a stream says what invoke says"() {
      const whole = await model.invoke(QUESTION);
      let streamed;
      for await (const chunk of await model.stream(QUESTION)) {
        streamed = streamed === undefined ? chunk : streamed.concat(chunk);
      }
      assert(streamed.text === whole.text, streamed.text);
      assert(whole.usage_metadata.total_tokens > 0, whole.usage_metadata);
      const next = await model.invoke([new HumanMessage(QUESTION), streamed, ["human", "Again?"]]);
      assert(next.text, next);
    },

    async "structured output"() {
      for (const method of ["jsonSchema", "functionCalling"]) {
        const bound = model.withStructuredOutput(Person, { method, name: "person" });
        const person = await bound.invoke(QUESTION);
        assert(person.born >= 0, person);
      }
    },

    async "a tool is called and answered"() {
      const bound = model.bindTools([keep], { tool_choice: "person" });
      const called = await bound.invoke(QUESTION);
      assert(called.tool_calls[0].args.born >= 0, called);
      const result = await keep.invoke(called.tool_calls[0]);
      const answer = await model.invoke([new HumanMessage(QUESTION), called, result]);
      assert(answer.text, answer);
    },

    async "an error says what is wrong"() {
      const error = await raised(Error, model.invoke(TOO_LONG));
      assert(error.message.includes("the limit is"), error.message);
    },
  };
  return Object.entries(all).map(([title, check]) => [`${name}: ${title}`, check]);
}

const kinds = [
  ["chat", {}],
  ["responses", { useResponsesApi: true }],
];
await run(Object.fromEntries(kinds.flatMap(([name, fields]) => checks(name, fields))));
