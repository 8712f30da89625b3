//! The queue: what every implementation promises, and what only RabbitMQ can do to us.

mod amqp;
mod contract;
