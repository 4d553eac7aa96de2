// One client of npm against a running server: node smoke.mjs CLIENT URL MODEL
// Prints one JSON line a feature: {"feature": …, "error": null or its text}.

const [client, url, model] = process.argv.slice(2);
const question = "Name one colour.";
const schema = { type: "object", properties: { colour: { type: "string" } }, required: ["colour"] };

function check(condition, what) {
  if (!condition) throw new Error(what);
}

async function openai() {
  const { default: OpenAI, NotFoundError } = await import("openai");
  const api = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user", content: question }];
  return {
    "chat: whole": async () => {
      const answer = await api.chat.completions.create({ model, messages, max_tokens: 16 });
      check(answer.choices[0].message.content.length > 0, "no text");
      check(answer.usage.completion_tokens > 0, "no usage");
    },
    "chat: stream": async () => {
      const stream = await api.chat.completions.create({ model, messages, max_tokens: 16, stream: true });
      let text = "";
      for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
      check(text.length > 0, "no text");
    },
    "chat: JSON schema": async () => {
      const answer = await api.chat.completions.create({
        model, messages, max_tokens: 64, temperature: 0,
        response_format: { type: "json_schema", json_schema: { name: "answer", strict: true, schema } },
      });
      check(typeof JSON.parse(answer.choices[0].message.content).colour === "string", "not the schema");
    },
    "responses: stream": async () => {
      const stream = await api.responses.create({ model, input: question, max_output_tokens: 16, stream: true });
      const seen = [];
      for await (const event of stream) seen.push(event.type);
      check(seen[0] === "response.created", `began with ${seen[0]}`);
      check(seen.includes("response.output_text.delta"), "no text");
    },
    "embeddings": async () => {
      const answer = await api.embeddings.create({ model, input: ["one", "two"] });
      check(answer.data.length === 2 && answer.data[0].embedding.length > 8, "no vectors");
    },
    "models": async () => {
      const ids = [];
      for await (const one of api.models.list()) ids.push(one.id);
      check(ids.length > 0, "no models");
    },
    "errors": async () => {
      try {
        await api.chat.completions.create({ model: "no-such-model", messages });
      } catch (error) {
        check(error instanceof NotFoundError, `it was ${error}`);
        return;
      }
      throw new Error("it was answered");
    },
  };
}

async function anthropic() {
  const { default: Anthropic, NotFoundError } = await import("@anthropic-ai/sdk");
  const api = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
  const messages = [{ role: "user", content: question }];
  return {
    "messages: whole": async () => {
      const answer = await api.messages.create({ model, messages, max_tokens: 16 });
      check(answer.content[0].text.length > 0, "no text");
      check(answer.usage.output_tokens > 0, "no usage");
    },
    "messages: stream": async () => {
      const stream = api.messages.stream({ model, messages, max_tokens: 16 });
      let text = "";
      stream.on("text", (piece) => { text += piece; });
      const answer = await stream.finalMessage();
      check(text === answer.content[0].text && text.length > 0, "pieces are not the whole");
    },
    "messages: tools": async () => {
      const answer = await api.messages.create({
        model, messages, max_tokens: 64, tools: [{ name: "tell", input_schema: schema }],
        tool_choice: { type: "tool", name: "tell" },
      });
      check(answer.content.some((part) => part.type === "tool_use"), "no call");
    },
    "count tokens": async () => {
      const counted = await api.messages.countTokens({ model, messages });
      check(counted.input_tokens > 0, "none");
    },
    "models": async () => {
      const ids = [];
      for await (const one of api.models.list()) ids.push(one.id);
      check(ids.length > 0, "no models");
    },
    "errors": async () => {
      try {
        await api.messages.create({ model: "no-such-model", messages, max_tokens: 4 });
      } catch (error) {
        check(error instanceof NotFoundError, `it was ${error}`);
        return;
      }
      throw new Error("it was answered");
    },
  };
}

async function ollama() {
  const { Ollama } = await import("ollama");
  const api = new Ollama({ host: url });
  const messages = [{ role: "user", content: question }];
  const options = { num_predict: 16 };
  return {
    "chat": async () => {
      const answer = await api.chat({ model, messages, options });
      check(answer.message.content.length > 0 && answer.eval_count > 0, "no text");
    },
    "chat: stream": async () => {
      let text = "", done = false;
      for await (const part of await api.chat({ model, messages, options, stream: true })) {
        text += part.message.content;
        done = part.done;
      }
      check(text.length > 0 && done, "no text, or no end");
    },
    "generate": async () => {
      const answer = await api.generate({ model, prompt: question, options });
      check(answer.response.length > 0, "no text");
    },
    "embed": async () => {
      const answer = await api.embed({ model, input: ["one", "two"] });
      check(answer.embeddings.length === 2, "no vectors");
    },
    "list, show, ps": async () => {
      check((await api.list()).models.length > 0, "no models");
      check((await api.show({ model })).details.format === "gguf", "no details");
      check((await api.ps()).models.length > 0, "nothing is loaded");
    },
    "errors": async () => {
      try {
        await api.chat({ model: "no-such-model", messages });
      } catch (error) {
        check(error.status_code === 404, `it was ${error}`);
        return;
      }
      throw new Error("it was answered");
    },
  };
}

async function gemini() {
  const { GoogleGenAI } = await import("@google/genai");
  const api = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl: url } });
  const config = { maxOutputTokens: 16 };
  return {
    "generate": async () => {
      const answer = await api.models.generateContent({ model, contents: question, config });
      check(answer.text.length > 0 && answer.usageMetadata.totalTokenCount > 0, "no text");
    },
    "generate: stream": async () => {
      let text = "";
      for await (const part of await api.models.generateContentStream({ model, contents: question, config })) {
        text += part.text ?? "";
      }
      check(text.length > 0, "no text");
    },
    "count tokens": async () => {
      check((await api.models.countTokens({ model, contents: question })).totalTokens > 0, "none");
    },
    "embed": async () => {
      const answer = await api.models.embedContent({ model, contents: ["one", "two"] });
      check(answer.embeddings.length === 2, "no vectors");
    },
    "models": async () => {
      const ids = [];
      for await (const one of await api.models.list()) ids.push(one.name);
      check(ids.length > 0, "no models");
    },
    "errors": async () => {
      try {
        await api.models.generateContent({ model: "no-such-model", contents: question });
      } catch (error) {
        check(error.status === 404, `it was ${error}`);
        return;
      }
      throw new Error("it was answered");
    },
  };
}

const features = await { openai, anthropic, ollama, gemini }[client]();
for (const [feature, run] of Object.entries(features)) {
  let error = null;
  try {
    await run();
  } catch (failed) {
    error = String(failed?.stack ?? failed).slice(0, 600);
  }
  console.log(JSON.stringify({ feature, error }));
}
