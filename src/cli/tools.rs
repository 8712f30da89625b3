//! `tools`: what the agent would see for a user.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{CommandError, Context};
use crate::app;
use crate::cache::redis::RedisCache;
use crate::job::{ConnectionName, Identifier};
use crate::metrics::Metrics;
use crate::redis_client::RedisClient;
use crate::worker::resources::tool_catalog::{ToolCatalog, ToolCatalogError};

/// Arguments of `tools`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker tools user_123
  agentkit-worker tools user_123 --connection gmail --connection slack --refresh")]
pub struct ToolsArguments {
    /// The user
    pub identifier: String,
    /// A connection; may be given several times [default: CONNECTION_NAME, else gmail]
    #[arg(long = "connection", value_name = "C")]
    pub connections: Vec<String>,
    /// Ask Scalekit, whatever is cached
    #[arg(long)]
    pub refresh: bool,
}

/// Carries out `tools`.
pub(crate) async fn tools(context: Context, arguments: ToolsArguments) -> Result<ExitCode, CommandError> {
    let named = context.config.scalekit.problems().into_iter().map(|problem| format!("scalekit.{problem}"));
    context.demand(named.collect())?;
    let Some(identifier) = Identifier::new(arguments.identifier) else {
        return Err(CommandError::Usage("IDENTIFIER: 1 to 100 characters".into()));
    };
    let mut names = arguments.connections;
    if names.is_empty() {
        names.push(context.sources.variable("CONNECTION_NAME").unwrap_or("gmail").to_owned());
    }
    let metrics = Arc::new(Metrics::default());
    let (scalekit, _) = app::edges(&context.config, &context.clock, &metrics, None)?;
    let redis = RedisClient::new(&context.config.redis).context("redis")?;
    let tool_catalog =
        ToolCatalog::new(context.config.tools.clone(), scalekit, Arc::new(RedisCache::new(redis)), metrics);
    for name in names {
        let connection =
            ConnectionName::new(name).ok_or(CommandError::Usage("--connection: not a connection name".into()))?;
        if arguments.refresh {
            tool_catalog.forget(&identifier, &connection).await;
        }
        show(&tool_catalog, &identifier, &connection).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(
    tool_catalog: &ToolCatalog,
    identifier: &Identifier,
    connection: &ConnectionName,
) -> Result<(), CommandError> {
    let (tools, source) = match tool_catalog.list(identifier, connection).await {
        Ok(found) => found,
        Err(ToolCatalogError::Empty) => {
            let hint = "check that the connection has tools and that the user's account is ACTIVE";
            return Err(anyhow!("{connection}: the tool list of {identifier} is empty; {hint}").into());
        }
        Err(ToolCatalogError::Scalekit(error)) if error.auth_lost() => {
            let hint =
                "compare the connection's name (upper and lower case count), and let the user connect the account";
            return Err(anyhow!("{connection}: {error}; {hint}").into());
        }
        Err(error) => return Err(CommandError::Unavailable(format!("{connection}: {error}"))),
    };
    println!("{connection}: {} tools for {identifier} (from {})", tools.len(), source.as_str());
    let rules = tool_catalog.config();
    for tool in &*tools {
        let denied = match (rules.deny.contains(&tool.name), rules.effects_ceiling.allows(tool.effect)) {
            (true, _) => "  denied by `tools.deny`",
            (false, false) => "  above `tools.effects_ceiling`",
            (false, true) => "",
        };
        println!("  {:<10} {}{denied}", tool.effect.as_str(), tool.name);
    }
    Ok(())
}
