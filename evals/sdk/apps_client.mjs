// What people build with the Vercel AI SDK, done against a running forebay (FOREBAY_URL) with the models `demo` and
// `embed`: a tool loop that ends, a parsed object, a stream, a retrieval, an error, and a server that is full for a moment.
import { createServer } from 'node:http';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { cosineSimilarity, embed, embedMany, generateText, hasToolCall, Output, stepCountIs, streamText, tool } from 'ai';
import OpenAI from 'openai';
import { z } from 'zod';

const url = process.env.FOREBAY_URL;
const prompt = 'How is the weather in Oslo?';
const texts = ['The weights wait at the intake.', 'water falls, turbines turn!', 'naïve café — déjà vu'];
const place = z.object({ city: z.enum(['Oslo', 'Rome']) });
let checks = 0;

function check(claim, holds) {
  if (!holds) throw new Error(`Vercel AI SDK: ${claim}: does not hold`);
  checks += 1;
}

const provider = (baseURL) => createOpenAICompatible({
  name: 'forebay', baseURL, apiKey: 'unused', includeUsage: true, supportsStructuredOutputs: true,
});
const forebay = provider(`${url}/v1`);
const options = {
  model: forebay('demo'), prompt, temperature: 0, maxOutputTokens: 128, maxRetries: 0,
  providerOptions: { forebay: { parallel_tool_calls: false } },
};

const asked = [];
const forecast = tool({
  description: 'The weather of a city', inputSchema: place,
  execute: async ({ city }) => { asked.push(city); return '7 degrees'; },
});
const loop = await generateText({
  ...options, tools: { forecast }, stopWhen: stepCountIs(3),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
});
check('a tool loop ends', asked.length >= 1 && loop.steps.length === 2 && loop.text.length > 0);
check('usage comes', loop.totalUsage.inputTokens > 0 && loop.totalUsage.outputTokens > 0);

const one = await generateText({ ...options, tools: { forecast }, toolChoice: 'required', stopWhen: hasToolCall('forecast') });
check('a loop stops at a call', one.finishReason === 'tool-calls');

const object = await generateText({ ...options, output: Output.object({ schema: place }) });
check('an object is parsed', ['Oslo', 'Rome'].includes(object.output.city));

const stream = streamText(options);
let text = '';
for await (const part of stream.textStream) text += part;
check('a stream adds up', text.length > 0 && text === (await generateText(options)).text);

const { embeddings } = await embedMany({ model: forebay.textEmbeddingModel('embed'), values: texts, maxRetries: 0 });
const { embedding } = await embed({ model: forebay.textEmbeddingModel('embed'), value: texts[0].toUpperCase(), maxRetries: 0 });
const near = embeddings.map((other) => cosineSimilarity(embedding, other));
check('a retrieval finds the text', near.indexOf(Math.max(...near)) === 0 && near[0] > 0.999);

try {
  await generateText({ ...options, temperature: 9 });
  check('a hot temperature is refused', false);
} catch (error) {
  check('an error names its field', error.statusCode === 400 && error.message.includes('temperature'));
}

// Passes requests on, but says to the first that it is full.
let seen = 0;
const proxy = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  seen += 1;
  if (seen === 1) {
    response.writeHead(503, { 'content-type': 'application/json', 'retry-after': '0' });
    response.end(JSON.stringify({ error: { message: 'the queue is full', type: 'server_error', param: null, code: 'overloaded' } }));
    return;
  }
  const answer = await fetch(url + request.url, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: Buffer.concat(parts),
  });
  response.writeHead(answer.status, { 'content-type': 'application/json' });
  response.end(await answer.text());
});
await new Promise((resolve) => { proxy.listen(0, '127.0.0.1', resolve); });
const full = provider(`http://127.0.0.1:${proxy.address().port}/v1`);
const retried = await generateText({ ...options, model: full('demo'), maxRetries: 2 });
check('a full server is tried again', retried.text.length > 0 && seen === 2);
proxy.close();
console.log(`Vercel AI SDK: ${checks} passed, 0 failed`);

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0 });
const vectors = await client.embeddings.create({ model: 'embed', input: [...texts, texts[0].toLowerCase()] });
const [first, , , last] = vectors.data.map((entry) => entry.embedding);
if (vectors.data.length !== 4 || cosineSimilarity(first, last) < 0.999) throw new Error('openai-node: embeddings: do not hold');
console.log('openai-node embeddings: 1 passed, 0 failed');
