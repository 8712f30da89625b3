//! A RabbitMQ cluster of three whose nodes are killed, frozen, cut off and restarted under load. No balancer: the workers
//! have all three addresses.

mod held_messages;
mod members;
mod nodes;
