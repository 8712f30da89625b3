"""Sends a job to agentkit-worker and prints the answer. Needs pika 1.x."""
import json
import os
import sys
import uuid

import pika

job = {
    "identifier": os.environ.get("USER_IDENTIFIER", "user_123"),
    "connections": [os.environ.get("CONNECTION_NAME", "gmail")],
    "prompt": sys.argv[1] if len(sys.argv) > 1 else "Fetch my last 5 unread emails and summarize them.",
}
job_id = f"python-{uuid.uuid4()}"  # a job with this id runs once, however often it is sent

url = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672")
channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
replies = channel.queue_declare("", exclusive=True).method.queue  # a service has a durable queue of its own instead
channel.confirm_delivery()
channel.basic_publish(  # raises an exception unless the broker has the job safely
    exchange="",
    routing_key="agentkit.jobs",
    body=json.dumps(job),
    properties=pika.BasicProperties(
        content_type="application/json", delivery_mode=2, message_id=job_id, correlation_id=job_id, reply_to=replies
    ),
    mandatory=True,
)

for method, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=600):
    if method is None:
        sys.exit(f"no reply within 10 minutes; the job goes on, send {job_id} again to get its reply")
    if properties.correlation_id != job_id:
        continue
    event = json.loads(body)
    data = event["data"]
    if event["type"] == "agentkit.job.completed":
        print(data["text"])
        sys.exit(0)
    if event["type"] == "agentkit.job.failed":
        sys.exit("{code}: {message}\nwhat to do: {hint}".format(**data["error"]))
    if event["type"] == "agentkit.job.authorization_required":
        for entry in data["authorizations"]:
            print(f"[{entry['connection']}] {entry['hint']}\n{entry.get('link', '')}", file=sys.stderr)
        if data.get("final"):
            sys.exit(1)
