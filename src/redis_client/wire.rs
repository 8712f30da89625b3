//! A connection as one operation sees it.

use std::io;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, Value};

/// A connection to a server, for one operation.
pub(super) struct Wire {
    pub(super) connection: MultiplexedConnection,
    /// Whether the server is told with each command that it was sent here by the node that still owns the slot. Without
    /// that it would send us back.
    pub(super) asking: bool,
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        if !self.asking {
            return self.connection.req_packed_command(command);
        }
        Box::pin(async move {
            // In one piece: `ASKING` counts for the next command of the connection, which others share.
            let mut pair = Pipeline::with_capacity(2);
            pair.add_command(redis::cmd("ASKING")).add_command(command.clone());
            let answers = self.connection.req_packed_commands(&pair, 1, 1).await?;
            answers.into_iter().next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
