//! How large a conversation is, by the provider's own count.

/// The size of the conversation as the provider counted it last, with its tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CountedTokens {
    pub(super) tokens: u64,
    /// So many messages were in it.
    pub(super) messages: usize,
}
