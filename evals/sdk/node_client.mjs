// What people do with openai-node, done against a running forebay (FOREBAY_URL).
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: `${process.env.FOREBAY_URL}/v1`, apiKey: 'unused', maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is Forebay?' }];
let checks = 0;

function check(claim, holds) {
  if (!holds) throw new Error(`openai-node: ${claim}: does not hold`);
  checks += 1;
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);
check('models.list names the demo', models.includes('demo'));

const whole = await client.chat.completions.create({ model: 'demo', messages, temperature: 0, max_tokens: 64 });
const answer = whole.choices[0].message.content;
check('an answer comes', answer.length > 0 && whole.choices[0].finish_reason === 'stop');

const stream = await client.chat.completions.create({
  model: 'demo', messages, temperature: 0, max_tokens: 64, stream: true, stream_options: { include_usage: true },
});
let text = '';
let usage = null;
for await (const chunk of stream) {
  usage = chunk.usage ?? usage;
  text += chunk.choices[0]?.delta?.content ?? '';
}
check('a stream says the same', text === answer);
check("a stream's usage is the same", usage.total_tokens === whole.usage.total_tokens);

const runner = client.chat.completions.stream({ model: 'demo', messages, temperature: 0, max_tokens: 64 });
check('the stream helper says the same', (await runner.finalContent()) === answer);

const leaving = await client.chat.completions.create({
  model: 'demo', messages, max_completion_tokens: 200, stream: true, ignore_eos: true,
});
for await (const _ of leaving) break;
check('a client may leave', leaving.controller.signal.aborted);

const plain = await client.completions.create({ model: 'demo', prompt: ['A', 'B'], max_tokens: 2, temperature: 0 });
check('several prompts are numbered', plain.choices.map((choice) => choice.index).join() === '0,1');

const parameters = {
  type: 'object', properties: { city: { enum: ['Oslo', 'Rome'] } }, required: ['city'], additionalProperties: false,
};
const format = { type: 'json_schema', json_schema: { name: 'place', strict: true, schema: parameters } };
const object = await client.chat.completions.parse({
  model: 'demo', messages, response_format: format, temperature: 0, max_tokens: 128,
});
check('the parse helper gives an object', ['Oslo', 'Rome'].includes(object.choices[0].message.parsed.city));

const asked = [];
const loop = client.chat.completions.runTools({
  model: 'demo', messages, tool_choice: { type: 'function', function: { name: 'forecast' } }, max_tokens: 128, stream: true,
  tools: [{
    type: 'function',
    function: {
      name: 'forecast', description: 'The weather of a city', parameters, parse: JSON.parse,
      function: ({ city }) => { asked.push(city); return '7 degrees'; },
    },
  }],
});
await loop.done();
check('a tool loop ends', asked.length === 1 && ['Oslo', 'Rome'].includes(asked[0]));

try {
  await client.chat.completions.create({ model: 'nobody', messages });
  check('an unknown model is refused', false);
} catch (error) {
  check('an unknown model is 404', error instanceof OpenAI.NotFoundError && error.param === 'model');
}
console.log(`openai-node: ${checks} passed, 0 failed`);
