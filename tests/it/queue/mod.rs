//! The queue: what every implementation promises, and what only RabbitMQ can do to us.

mod addresses;
mod amqp;
mod contract;
