// Checks of a server at the address in the first argument with the vendors' clients for node: openai,
// @anthropic-ai/sdk, ollama, and Vercel's ai with @ai-sdk/openai-compatible. One line per check;
// status 1 if one fails. See clients.py.

import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, streamText, tool } from "ai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { z } from "zod";

const url = process.argv[2];
const model = process.argv[3] ?? "bobot";
const gpt = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const claude = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const llama = new Ollama({ host: url });
const vercel = createOpenAICompatible({
  name: "bobot",
  baseURL: `${url}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});

const messages = [{ role: "user", content: "Say hello." }];
const cities = ["Jakarta", "Paris"];
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: cities } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { type: "function", function: { name: "weather", parameters } };
const person = z.object({ isTall: z.boolean(), rank: z.enum(["low", "high"]) });
const base = { model, messages, max_tokens: 40, temperature: 0 };

const checks = {
  async openai_streams_what_it_answers() {
    const whole = await gpt.chat.completions.create(base);
    let text = "";
    let usage;
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await gpt.chat.completions.create({ ...base, ...options })) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.ok(text.length > 0);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },

  async openai_lists_models() {
    const found = [];
    for await (const one of gpt.models.list()) found.push(one.id);
    assert.ok(found.includes(model));
    assert.equal((await gpt.models.retrieve(model)).id, model);
  },

  async openai_calls_a_tool() {
    const choice = { type: "function", function: { name: "weather" } };
    const answer = await gpt.chat.completions.create({
      ...base, max_tokens: 100, tools: [weather], tool_choice: choice, parallel_tool_calls: false,
    });
    const call = answer.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "weather");
    assert.ok(cities.includes(JSON.parse(call.function.arguments).city));
  },

  async openai_runs_tools_until_an_answer() {
    let asked = 0;
    const runner = gpt.chat.completions.runTools({
      ...base, max_tokens: 400, parallel_tool_calls: false,  // an answer cut short is an error
      tool_choice: { type: "function", function: { name: "weather" } },
      tools: [{
        type: "function",
        function: {
          name: "weather", parameters, parse: JSON.parse,
          function: ({ city }) => { asked += cities.includes(city); return "sunny"; },
        },
      }],
    });
    await runner.done();
    assert.equal(asked, 1);
  },

  async openai_parses_a_schema() {
    const { zodResponseFormat } = await import("openai/helpers/zod");
    const form = zodResponseFormat(person, "person");
    const answer = await gpt.chat.completions.parse({
      ...base, max_tokens: 80, response_format: form,
    });
    assert.equal(typeof answer.choices[0].message.parsed.isTall, "boolean");
  },

  async openai_stream_helper_finds_the_final_message() {
    const stream = gpt.chat.completions.stream({ ...base });
    let text = "";
    stream.on("content", (delta) => { text += delta; });
    assert.equal((await stream.finalChatCompletion()).choices[0].message.content, text);
  },

  async openai_aborted_stream_ends() {
    const stream = await gpt.chat.completions.create({ ...base, max_tokens: 400, stream: true });
    let count = 0;
    for await (const _ of stream) if (++count === 3) stream.controller.abort();
    assert.ok(count < 50, `${count} chunks came after the abort`);
  },

  async openai_errors_have_their_class() {
    await assert.rejects(gpt.chat.completions.create({ ...base, model: "nope" }), OpenAI.NotFoundError);
    await assert.rejects(gpt.chat.completions.create({ ...base, temperature: 9 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "temperature");
      return true;
    });
  },

  async openai_responses_stream() {
    let text = "";
    const stream = await gpt.responses.create({
      model, input: "Say hello.", max_output_tokens: 30, stream: true,
    });
    let last;
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    assert.ok(["response.completed", "response.incomplete"].includes(last.type));
    assert.equal(last.response.output[0].content[0].text, text);
  },

  async openai_embeds() {
    const found = await gpt.embeddings.create({ model, input: ["Hello", "Halo"] });
    const squares = found.data.map(({ embedding }) => embedding.reduce((sum, x) => sum + x * x, 0));
    for (const square of squares) assert.ok(Math.abs(square - 1) < 1e-3);
  },

  async anthropic_streams_what_it_answers() {
    const body = { model, max_tokens: 40, messages, temperature: 0 };
    const whole = await claude.messages.create(body);
    const stream = claude.messages.stream(body);
    let text = "";
    stream.on("text", (delta) => { text += delta; });
    const last = await stream.finalMessage();
    assert.equal(text, whole.content[0].text);
    assert.equal(last.content[0].text, text);
    assert.equal(last.usage.output_tokens, whole.usage.output_tokens);
  },

  async anthropic_uses_a_tool() {
    const answer = await claude.messages.create({
      model, max_tokens: 100, messages,
      tools: [{ name: "weather", input_schema: parameters }],
      tool_choice: { type: "tool", name: "weather", disable_parallel_tool_use: true },
    });
    assert.equal(answer.stop_reason, "tool_use");
    assert.ok(cities.includes(answer.content.at(-1).input.city));
  },

  async anthropic_streams_the_input_of_a_tool() {
    const stream = claude.messages.stream({
      model, max_tokens: 100, messages,
      tools: [{ name: "weather", input_schema: parameters }],
      tool_choice: { type: "any", disable_parallel_tool_use: true },
    });
    assert.ok(cities.includes((await stream.finalMessage()).content.at(-1).input.city));
  },

  async anthropic_aborted_stream_ends() {
    const stream = claude.messages.stream({ model, max_tokens: 400, messages });
    stream.on("text", () => stream.abort());
    await assert.rejects(stream.finalMessage(), Anthropic.APIUserAbortError);
  },

  async anthropic_errors_have_their_class() {
    const body = { model, max_tokens: 4, messages };
    await assert.rejects(claude.messages.create({ ...body, model: "nope" }), Anthropic.NotFoundError);
    await assert.rejects(
      claude.messages.create({ ...body, messages: [] }), Anthropic.BadRequestError,
    );
  },

  async ollama_streams_what_it_answers() {
    const body = { model, messages, options: { temperature: 0, num_predict: 40 } };
    const whole = await llama.chat(body);
    let text = "";
    let last;
    for await (const part of await llama.chat({ ...body, stream: true })) {
      text += part.message.content;
      last = part;
    }
    assert.equal(text, whole.message.content);
    assert.ok(last.done && last.eval_count > 0);
  },

  async ollama_keeps_a_format() {
    const body = { model, messages, format: z.toJSONSchema(person), options: { num_predict: 100 } };
    person.parse(JSON.parse((await llama.chat(body)).message.content));
  },

  async ollama_takes_tools() {
    const body = { model, messages, tools: [weather], options: { num_predict: 40 } };
    assert.equal((await llama.chat(body)).message.role, "assistant");
  },

  async ollama_aborted_stream_ends() {
    const stream = await llama.generate({
      model, prompt: "Once", stream: true, options: { num_predict: 400 },
    });
    let count = 0;
    try {
      for await (const _ of stream) if (++count === 3) stream.abort();
    } catch (error) {
      assert.equal(error.name, "AbortError");
    }
    assert.ok(count < 50, `${count} pieces came after the abort`);
  },

  async ollama_lists_shows_and_embeds() {
    assert.ok((await llama.list()).models.some((one) => one.model === model));
    assert.ok((await llama.show({ model })).details);
    assert.equal((await llama.embed({ model, input: ["a", "b"] })).embeddings.length, 2);
    await assert.rejects(llama.chat({ model: "nope", messages }), { status_code: 404 });
  },

  async vercel_generates_and_streams_the_same() {
    const asked = { model: vercel(model), prompt: "Say hello.", maxOutputTokens: 40, temperature: 0 };
    const whole = await generateText(asked);
    const stream = streamText(asked);
    let text = "";
    for await (const delta of stream.textStream) text += delta;
    assert.equal(text, whole.text);
    assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);
  },

  async vercel_keeps_a_schema() {
    const answer = await generateText({
      model: vercel(model), prompt: "A person", maxOutputTokens: 80,
      output: Output.object({ schema: person }),
    });
    person.parse(answer.output);
  },

  async vercel_calls_a_tool() {
    const asked = {
      model: vercel(model), prompt: "Weather?", maxOutputTokens: 60, toolChoice: "required",
      providerOptions: { bobot: { parallel_tool_calls: false } },
      tools: { weather: tool({ inputSchema: z.object({ city: z.enum(cities) }) }) },
    };
    assert.ok(cities.includes((await generateText(asked)).toolCalls[0].input.city));
    assert.ok(cities.includes((await streamText(asked).toolCalls)[0].input.city));
  },

  async vercel_aborted_stream_ends() {
    const controller = new AbortController();
    const stream = streamText({
      model: vercel(model), prompt: "Say hello.", maxOutputTokens: 400,
      abortSignal: controller.signal,
    });
    let isAborted = false;
    for await (const part of stream.fullStream) {
      if (part.type === "text-delta") controller.abort();
      isAborted ||= part.type === "abort";
    }
    assert.ok(isAborted);
  },

  async vercel_errors_have_their_status() {
    await assert.rejects(
      generateText({ model: vercel("nope"), prompt: "x", maxRetries: 0 }),
      (error) => APICallError.isInstance(error) && error.statusCode === 404,
    );
  },

  async vercel_embeds() {
    const found = await embedMany({ model: vercel.embeddingModel(model), values: ["a", "b"] });
    assert.equal(found.embeddings.length, 2);
  },
};

let failed = 0;
for (const [name, one] of Object.entries(checks)) {
  try {
    await one();
    console.log(`pass ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
