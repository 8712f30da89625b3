// A worker as one writes it by hand: takes a job, asks the model with the user's tools, runs the call through Scalekit,
// asks again, replies. What it has done so far is nowhere but in its memory. Needs amqplib.
import amqp from 'amqplib';

const { AMQP_URL, QUEUE, UPSTREAM_URL } = process.env;
const concurrency = Number(process.env.CONCURRENCY);
const json = { 'content-type': 'application/json' };
const lists = new Map(); // of each user, for half a minute

async function ask(path, options) {
  const answer = await fetch(`${UPSTREAM_URL}${path}`, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

const post = (path, token, body) =>
  ask(path, { method: 'POST', headers: { ...json, authorization: `Bearer ${token}` }, body: JSON.stringify(body) });
const get = (path, query) =>
  ask(`${path}?${new URLSearchParams(query)}`, { headers: { authorization: `Bearer ${access_token}` } });

async function toolsOf(identifier, connection) {
  const key = `${identifier} ${connection}`;
  const known = lists.get(key);
  if (known && known.until > Date.now()) return known.tools;
  const query = { identifier, 'filter.connection_names': connection, page_size: '100' };
  const listed = await get('/api/v1/tools/scoped', query);
  const tools = listed.tools.map(({ tool: { definition: { name, description, input_schema: parameters } } }) =>
    ({ type: 'function', function: { name, description, parameters, strict: false } }));
  lists.set(key, { tools, until: Date.now() + 30_000 });
  return tools;
}

async function run(job) {
  const { id, identifier, prompt, connections: [connector] } = job;
  const { connected_account: account } = await get('/api/v1/connected_accounts/details', { connector, identifier });
  if (account.status !== 'ACTIVE') throw new Error(`the account is ${account.status}`);
  const tools = await toolsOf(identifier, connector);
  const messages = [
    { role: 'system', content: 'You are a helpful assistant. Use the available tools to fulfil the request.' },
    { role: 'user', content: prompt },
  ];
  for (let turn = 0; turn < 20; turn += 1) {
    const completion = await post('/v1/chat/completions', 'benchmark',
      { model: 'gpt-4o', messages, tools, tool_choice: 'auto', prompt_cache_key: id });
    const { message } = completion.choices[0];
    messages.push(message);
    if (!message.tool_calls?.length) return message.content;
    for (const call of message.tool_calls) {
      const result = await post('/api/v1/execute_tool', access_token, {
        tool_name: call.function.name, connector, identifier, params: JSON.parse(call.function.arguments), agent_run_id: id,
      });
      messages.push({ role: 'tool', tool_call_id: call.id, content: JSON.stringify(result.data) });
    }
  }
  throw new Error('the model does not come to an end');
}

const { access_token } = await ask('/oauth/token', {
  method: 'POST', body: new URLSearchParams({ grant_type: 'client_credentials', client_id: 'c', client_secret: 's' }),
});
const connection = await amqp.connect(AMQP_URL);
const replies = await connection.createConfirmChannel();
const jobs = await connection.createChannel();
await jobs.prefetch(concurrency);
await jobs.consume(QUEUE, async (message) => {
  const { replyTo, correlationId } = message.properties;
  const text = await run(JSON.parse(message.content.toString()));
  const reply = { type: 'agentkit.job.completed', subject: correlationId, data: { text } };
  await new Promise((resolve, reject) => {
    replies.sendToQueue(replyTo, Buffer.from(JSON.stringify(reply)), {
      persistent: true, mandatory: true, correlationId, messageId: `${correlationId}:reply`, type: reply.type,
      contentType: 'application/json',
    }, (error) => (error ? reject(error) : resolve()));
  });
  jobs.ack(message);
});
console.log('ready');
process.stdin.on('end', () => process.exit(0)).resume();
