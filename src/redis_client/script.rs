//! Scripts that know which slot their keys lie in.

use redis::{ScriptInvocation, ToRedisArgs};

use super::slots;

/// A script; all keys that it is given must lie in one slot.
#[derive(Debug)]
pub(crate) struct Script(redis::Script);

/// A script with its keys and arguments.
pub(crate) struct Invocation<'a> {
    pub(super) slot: u16,
    pub(super) script: ScriptInvocation<'a>,
}

impl Script {
    pub(crate) fn new(text: &str) -> Self {
        Self(redis::Script::new(text))
    }

    /// Begins an invocation with its first key.
    pub(crate) fn key(&self, key: String) -> Invocation<'_> {
        Invocation { slot: slots::of_key(key.as_bytes()), script: self.0.key(key) }
    }
}

impl Invocation<'_> {
    /// A further key.
    pub(crate) fn key(&mut self, key: String) -> &mut Self {
        debug_assert_eq!(slots::of_key(key.as_bytes()), self.slot, "the keys of a script lie in one slot");
        self.script.key(key);
        self
    }

    /// A further argument, or several.
    pub(crate) fn arg<T: ToRedisArgs>(&mut self, argument: T) -> &mut Self {
        self.script.arg(argument);
        self
    }
}
