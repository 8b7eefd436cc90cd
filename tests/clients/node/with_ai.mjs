// Vercel's AI SDK, by its providers for OpenAI (responses and chats) and for compatible servers.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { BASE, KEY, MODEL, Person, QUESTION, TOO_LONG, assert, raised, run } from "./harness.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const openai = createOpenAI({ baseURL: BASE, apiKey: KEY });
const compatible = createOpenAICompatible({
  name: "sgrt",
  baseURL: BASE,
  apiKey: KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = {
  responses: openai(MODEL),
  chat: openai.chat(MODEL),
  compatible: compatible(MODEL),
};
const options = {
  prompt: QUESTION,
  maxOutputTokens: 90,
  temperature: 0,
  maxRetries: 0,
  providerOptions: {
    openai: { parallelToolCalls: false },
    sgrt: { parallel_tool_calls: false },
  },
};
const keep = async (person) => ({ kept: person.name });
const tools = { person: tool({ description: "Keeps one.", inputSchema: Person, execute: keep }) };
const object = Output.object({ schema: Person });

function checks(name, model) {
  const asked = { ...options, model };
  const onError = ({ error }) => {
    throw error;
  };
  const all = {
    async "a stream says what the whole answer says"() {
      const whole = await generateText(asked);
      const stream = streamText({ ...asked, onError });
      let text = "";
      for await (const piece of stream.textStream) text += piece;
      assert(text === whole.text, text);
      assert((await stream.usage).totalTokens === whole.usage.totalTokens, await stream.usage);
    },

    async "objects, whole and streamed"() {
      const whole = await generateText({ ...asked, output: object });
      const stream = streamText({ ...asked, output: object, onError });
      for await (const _ of stream.partialOutputStream);
      assert(whole.output.born >= 0, whole.output);
      assert((await stream.output).name === whole.output.name, await stream.output);
      const choice = Output.choice({ options: ["red", "blue"] });
      const chosen = await generateText({ ...asked, output: choice });
      assert(["red", "blue"].includes(chosen.output), chosen.output);
    },

    async "tools, and steps that follow them"() {
      for (const toolChoice of ["required", { type: "tool", toolName: "person" }]) {
        const answer = await generateText({ ...asked, tools, toolChoice });
        assert(answer.toolCalls[0].input.born >= 0, answer.toolCalls);
        assert(answer.toolResults.length === 1, answer.toolResults);
      }
      const steps = {
        ...asked,
        tools,
        stopWhen: stepCountIs(2),
        prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
      };
      const whole = await generateText(steps);
      assert(whole.steps.length === 2 && whole.text, whole.steps.length);
      const stream = streamText({ ...steps, onError });
      await stream.consumeStream();
      assert((await stream.text) === whole.text, await stream.text);
    },

    async "its own answers go back"() {
      const { response } = await generateText(asked);
      const question = { role: "user", content: QUESTION };
      const again = { role: "user", content: "And again?" };
      const messages = [question, ...response.messages, again];
      const next = await generateText({ ...asked, prompt: undefined, messages });
      assert(next.text, next);
    },

    async "errors and aborts"() {
      const error = await raised(APICallError, generateText({ ...asked, prompt: TOO_LONG }));
      assert(error.statusCode === 400 && error.message.includes("the limit is"), error.message);
      const abortSignal = AbortSignal.timeout(100);
      const endless = { ...asked, maxOutputTokens: 4000, temperature: 1, abortSignal };
      const aborted = await raised(Error, generateText(endless));
      assert(["AbortError", "TimeoutError"].includes(aborted.name), aborted.name);
    },
  };
  return Object.entries(all).map(([title, check]) => [`${name}: ${title}`, check]);
}

await run(
  Object.fromEntries(Object.entries(models).flatMap(([name, model]) => checks(name, model))),
);
