#!/bin/sh
# Sends a job to agentkit-worker and prints the answer. Needs agentkit-worker in the PATH; reads AMQP_URL.
# The exit code is 0 for an answer, 1 for a job that failed. `--json` instead gives every reply as one line of JSON.
exec agentkit-worker enqueue "${1:-Fetch my last 5 unread emails and summarize them.}" \
    --identifier "${USER_IDENTIFIER:-user_123}" \
    --connection "${CONNECTION_NAME:-gmail}" \
    --id "shell-$(date +%s)-$$" \
    --wait --timeout 600
