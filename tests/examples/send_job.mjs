// Sends a job to agentkit-worker and prints the answer. Needs amqplib.
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';

const job = {
  identifier: process.env.USER_IDENTIFIER ?? 'user_123',
  connections: [process.env.CONNECTION_NAME ?? 'gmail'],
  prompt: process.argv[2] ?? 'Fetch my last 5 unread emails and summarize them.',
};
const jobId = `node-${randomUUID()}`; // a job with this id runs once, however often it is sent

function end(code, text) {
  (code === 0 ? console.log : console.error)(text);
  process.exit(code);
}

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@127.0.0.1:5672');
const channel = await connection.createConfirmChannel();
const { queue } = await channel.assertQueue('', { exclusive: true }); // a service has a durable queue of its own instead

channel.on('return', () => end(1, 'there is no queue agentkit.jobs: start a worker first'));
await channel.consume(queue, (message) => {
  if (message === null) end(1, 'the reply queue is gone');
  if (message.properties.correlationId !== jobId) return;
  const { type, data } = JSON.parse(message.content.toString());
  if (type === 'agentkit.job.completed') end(0, data.text);
  if (type === 'agentkit.job.failed') {
    end(1, `${data.error.code}: ${data.error.message}\nwhat to do: ${data.error.hint}`);
  }
  if (type === 'agentkit.job.authorization_required') {
    for (const entry of data.authorizations) console.error(`[${entry.connection}] ${entry.hint}\n${entry.link ?? ''}`);
    if (data.final) process.exit(1);
  }
}, { noAck: true });

channel.sendToQueue('agentkit.jobs', Buffer.from(JSON.stringify(job)), {
  contentType: 'application/json', persistent: true, mandatory: true,
  messageId: jobId, correlationId: jobId, replyTo: queue,
});
await channel.waitForConfirms(); // fails unless the broker has the job safely
setTimeout(() => end(1, `no reply within 10 minutes; the job goes on, send ${jobId} again to get its reply`), 600_000);
