// What the scripts share: they define functions, `run` calls them and tells the exit status.
import { z } from "zod";

export const BASE = `${process.env.SGRT_URL}/v1`;
export const KEY = process.env.SGRT_KEY;
export const MODEL = process.env.SGRT_MODEL ?? "smollm2-135m-instruct";
export const QUESTION = "Ada Lovelace was born in London in 1815. Extract the person.";
export const MESSAGES = [{ role: "user", content: QUESTION }];
export const TOO_LONG = "word ".repeat(20_000);
export const Person = z.object({
  name: z.string().max(20),
  born: z.number().int().min(0).max(2100),
});

export function assert(condition, said = "") {
  if (!condition) throw new Error(`not so: ${JSON.stringify(said)}`);
}

export async function raised(kind, promise) {
  const error = await Promise.resolve(promise).then(
    (value) => new Error(`nothing was raised, but ${JSON.stringify(value)}`),
    (error) => error,
  );
  if (!(error instanceof kind)) throw error;
  return error;
}

export async function run(checks) {
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    const began = performance.now();
    let said = "ok";
    try {
      await check();
    } catch (error) {
      console.error(error);
      failed += 1;
      said = "FAILED";
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(`  ${said.padEnd(6)} ${seconds.padStart(6)} s  ${name}`);
  }
  process.exit(failed ? 1 : 0);
}
