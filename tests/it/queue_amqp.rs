//! What only RabbitMQ can do to us.
