// openai-node: chat, parse, streams, tools that run, responses, errors, aborts.
import OpenAI from "openai";
import {
  zodFunction,
  zodResponseFormat,
  zodResponsesFunction,
  zodTextFormat,
} from "openai/helpers/zod";
import { BASE, KEY, MESSAGES, MODEL, Person, QUESTION, TOO_LONG, assert, raised, run } from "./harness.mjs";

const client = new OpenAI({ baseURL: BASE, apiKey: KEY, maxRetries: 0 });
const chat = client.chat.completions;
const fixed = { model: MODEL, messages: MESSAGES, max_tokens: 90, temperature: 0 };
const answered = { model: MODEL, input: QUESTION, max_output_tokens: 90, temperature: 0 };
const format = zodResponseFormat(Person, "person");

function personTool(kept = []) {
  const keep = (person) => {
    kept.push(person);
    return { kept: person.name };
  };
  return zodFunction({ name: "person", parameters: Person, function: keep });
}

const once = { tools: [personTool()], parallel_tool_calls: false };

await run({
  async "a stream says what create says"() {
    const whole = await chat.create(fixed);
    const stream = await chat.create({
      ...fixed,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert(text === whole.choices[0].message.content, text);
    assert(usage.total_tokens === whole.usage.total_tokens, usage);
  },

  async "parse, whole and streamed"() {
    const whole = await chat.parse({ ...fixed, response_format: format });
    const stream = chat.stream({ ...fixed, response_format: format });
    const streamed = await stream.finalChatCompletion();
    const persons = [whole, streamed].map((answer) => answer.choices[0].message.parsed);
    assert(persons[0].born >= 0 && persons[0].name === persons[1].name, persons);
  },

  async "tools in every way"() {
    const named = { type: "function", function: { name: "person" } };
    for (const tool_choice of ["required", named]) {
      const answer = await chat.parse({ ...fixed, ...once, tool_choice });
      const call = answer.choices[0].message.tool_calls[0];
      assert(call.function.parsed_arguments.born >= 0, call);
      const streamed = await chat.stream({ ...fixed, ...once, tool_choice }).finalMessage();
      assert(streamed.tool_calls[0].function.arguments === call.function.arguments, streamed);
    }
    for (const tool_choice of ["auto", "none"]) {
      await chat.create({ ...fixed, ...once, tool_choice });
    }
  },

  async "runTools calls and answers"() {
    for (const stream of [false, true]) {
      const kept = [];
      const runner = chat.runTools(
        { ...fixed, ...once, tools: [personTool(kept)], tool_choice: "required", stream },
        { maxChatCompletions: 2 },
      );
      await runner.done();
      assert(kept.length === 2 && kept[0].born >= 0, kept);
    }
  },

  async "responses, parsed and streamed"() {
    const text = { format: zodTextFormat(Person, "person") };
    const whole = await client.responses.parse({ ...answered, text });
    const stream = client.responses.stream({ ...answered, text });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    const streamed = await stream.finalResponse();
    assert(whole.output_parsed.name === streamed.output_parsed.name, streamed);
    assert(kinds.at(-1) === "response.completed", kinds);
  },

  async "a response goes on from an earlier one"() {
    const first = await client.responses.create(answered);
    const id = first.id;
    const next = await client.responses.create({ ...answered, previous_response_id: id });
    assert(next.usage.input_tokens > first.usage.input_tokens, next.usage);
    assert((await client.responses.retrieve(id)).output_text === first.output_text);
    await client.responses.delete(id);
    await raised(OpenAI.NotFoundError, client.responses.retrieve(id));
  },

  async "a call that was parsed goes back with its result"() {
    const tools = [zodResponsesFunction({ name: "person", parameters: Person })];
    const asked = { ...answered, tools, tool_choice: "required", parallel_tool_calls: false };
    const [call] = (await client.responses.parse(asked)).output;
    assert(call.parsed_arguments.born >= 0, call);
    const result = { type: "function_call_output", call_id: call.call_id, output: "kept" };
    const input = [...MESSAGES, call, result];
    assert((await client.responses.create({ ...answered, input })).output_text);
  },

  async "errors have their classes and places"() {
    const error = await raised(OpenAI.BadRequestError, chat.create({ ...fixed, temperature: -1 }));
    assert(error.param === "temperature", error.param);
    const messages = [{ role: "user", content: TOO_LONG }];
    const long = await raised(OpenAI.BadRequestError, chat.create({ ...fixed, messages }));
    assert(long.code === "context_length_exceeded", long.code);
    await raised(OpenAI.NotFoundError, chat.create({ ...fixed, model: "other" }));
    const stranger = client.withOptions({ apiKey: "wrong" });
    await raised(OpenAI.AuthenticationError, stranger.models.list());
  },

  async "aborted requests end"() {
    const endless = { ...fixed, max_tokens: 2000, temperature: 1 };
    const controller = new AbortController();
    const stream = await chat.create({ ...endless, stream: true }, { signal: controller.signal });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) controller.abort();
    assert(chunks < 2000, chunks);
    const wants = chat.create(endless, { timeout: 100 });
    await raised(OpenAI.APIConnectionTimeoutError, wants);
  },

  async "many at once agree"() {
    const some = Array.from({ length: 8 }, () => chat.create({ ...fixed, max_tokens: 4 }));
    const texts = (await Promise.all(some)).map((answer) => answer.choices[0].message.content);
    assert(new Set(texts).size === 1, texts);
  },

  async "completions and models"() {
    const asked = { model: MODEL, prompt: ["one", "two"], max_tokens: 3 };
    assert((await client.completions.create(asked)).choices.length === 2);
    for await (const model of client.models.list()) assert(model.id === MODEL, model);
    assert((await client.models.retrieve(MODEL)).id === MODEL);
  },
});
