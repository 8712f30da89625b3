//! What is wrong with a configuration whose every part can be read.

use super::Config;

impl Config {
    /// What is wrong with the parts that a run needs: Scalekit, the model, the worker.
    pub fn run_problems(&self) -> Vec<String> {
        let named = |section: &'static str, problems: Vec<String>| {
            problems.into_iter().map(move |problem| format!("{section}.{problem}"))
        };
        let mut problems = Vec::new();
        problems.extend(named("scalekit", self.scalekit.problems()));
        let servers = self.mcp.iter().flat_map(|(name, server)| server.problems(name));
        problems.extend(named("mcp", servers.collect()));
        let own = self.connections.keys().filter(|connection| connection.mcp_server().is_some());
        problems
            .extend(own.map(|name| format!("connections.{name}: is a server of [mcp], not a connection of Scalekit")));
        problems.extend(named("model", self.model.problems()));
        problems.extend(named("providers", self.providers.problems()));
        problems.extend(named("budget", self.budget.problems()));
        problems.extend(named("worker", self.worker.problems()));
        problems.extend(named("fairness", self.fairness.problems()));
        problems.extend(named("approval", self.approval.problems()));
        problems.extend(named("answer", self.answer.problems()));
        problems.extend(named("telemetry", self.telemetry.problems()));
        problems.extend(named("audit", self.audit.problems()));
        problems.extend(named("journal", self.journal.encryption().err().into_iter().collect()));
        problems.extend(named("reply_url", self.reply_url.problems()));
        let positive: [(&str, u64); 4] = [
            ("job.parallel_reads", self.job.parallel_reads as u64),
            ("authorization.poll_seconds", self.authorization.poll_seconds),
            ("authorization.poll_seconds_at_most", self.authorization.poll_seconds_at_most),
            ("digests.lease_seconds", self.digests.lease_seconds),
        ];
        problems.extend(zeros(&positive));
        problems
    }

    /// What is wrong with the parts that the service needs besides: broker, Redis.
    pub fn service_problems(&self) -> Vec<String> {
        let mut problems = self.run_problems();
        problems.extend(self.amqp.problems().into_iter().map(|problem| format!("amqp.{problem}")));
        problems.extend(self.redis.problems().into_iter().map(|problem| format!("redis.{problem}")));
        problems.extend(self.http.problems().into_iter().map(|problem| format!("http.{problem}")));
        problems
    }
}

/// One line for each of these that is zero and must not be.
fn zeros<'a>(values: &'a [(&'a str, u64)]) -> impl Iterator<Item = String> + 'a {
    values.iter().filter(|(_, value)| *value == 0).map(|(name, _)| format!("{name}: must be at least 1"))
}
