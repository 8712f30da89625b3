//! Whether Scalekit takes our credentials: told of by every call, and looked at without a call that anybody wants.

use std::sync::Arc;

use super::{Error, Scalekit};
use crate::job::ConnectionName;

/// What a call has shown of our credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialsNews {
    /// A call was answered that needs them.
    Taken,
    /// The token endpoint does not take them.
    Refused,
    /// A call was refused as ours although its token was fresh.
    CallRefused,
}

/// Hears what calls have shown of our credentials.
pub type OnCredentials = Arc<dyn Fn(CredentialsNews) + Send + Sync>;

impl Scalekit {
    /// Tells `hook` what calls show of our credentials.
    pub fn on_credentials(mut self, hook: OnCredentials) -> Self {
        self.on_credentials = Some(hook);
        self
    }

    /// Whether there is an access token to be had.
    pub async fn has_token(&self) -> Result<(), Error> {
        self.token(None).await.map(drop)
    }

    /// Fetches a new token and makes a call with it that changes nothing. An error that is not [`Error::Credentials`] says
    /// nothing of them.
    pub async fn try_credentials(&self) -> Result<(), Error> {
        self.renew_token().await?;
        let any = ConnectionName::new("gmail").expect("a legal name");
        match self.accounts_of(&any).await {
            Ok(_) | Err(Error::ConnectionNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
