//! `tools`: what the agent would see for a user.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{CommandError, Context};
use crate::agent::tool::is_named;
use crate::app;
use crate::cache::redis::RedisCache;
use crate::job::{ConnectionName, Identifier};
use crate::metrics::Metrics;
use crate::redis_client::RedisClient;
use crate::worker::resources::tool_catalog::{ToolCatalog, ToolCatalogError};
use crate::worker::resources::tool_source::ToolUser;

/// Arguments of `tools`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentkit-worker tools user_123
  agentkit-worker tools user_123 --connection gmail --connection mcp:crm --refresh")]
pub struct ToolsArguments {
    /// The user
    pub identifier: String,
    /// A connection; may be given several times [default: CONNECTION_NAME, else gmail]
    #[arg(long = "connection", value_name = "C")]
    pub connections: Vec<String>,
    /// Ask Scalekit or the MCP server, whatever is cached
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
    let sources = app::tool_sources(&context.config, &context.clock, &scalekit)?;
    let redis = RedisClient::new(&context.config.redis).context("redis")?;
    let tool_catalog =
        ToolCatalog::new(context.config.tools.clone(), sources, Arc::new(RedisCache::new(redis)), metrics);
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
    let user = ToolUser { identifier, run: "", reads_only: false };
    let (tools, source) = match tool_catalog.list(user, connection).await {
        Ok(found) => found,
        Err(ToolCatalogError::Empty) if connection.mcp_server().is_some() => {
            return Err(anyhow!("{connection}: the MCP server lists no tools").into());
        }
        Err(ToolCatalogError::Empty) => {
            let hint = "check that the connection has tools and that the user's account is ACTIVE";
            return Err(anyhow!("{connection}: the tool list of {identifier} is empty; {hint}").into());
        }
        Err(ToolCatalogError::Source(error)) if error.operator_error(connection).is_some() => {
            let detail = error.operator_error(connection).map(|detail| format!("{}; {}", detail.message, detail.hint));
            return Err(anyhow!("{}", detail.unwrap_or_default()).into());
        }
        Err(ToolCatalogError::Source(error)) if error.auth_lost() => {
            let hint =
                "compare the connection's name (upper and lower case count), and let the user connect the account";
            return Err(anyhow!("{connection}: {error}; {hint}").into());
        }
        Err(error) => return Err(CommandError::Unavailable(format!("{connection}: {error}"))),
    };
    println!("{connection}: {} tools for {identifier} (from {})", tools.len(), source.as_str());
    let rules = tool_catalog.config();
    for tool in &*tools {
        let is_denied = is_named(&rules.deny, &tool.name, connection);
        let denied = match (is_denied, rules.effects_ceiling.allows(tool.effect)) {
            (true, _) => "  denied by `tools.deny`",
            (false, false) => "  above `tools.effects_ceiling`",
            (false, true) => "",
        };
        // Of Scalekit's tools the name there, by which rules name them.
        let name = if connection.mcp_server().is_some() { &tool.model_name } else { &tool.name };
        println!("  {:<10} {name}{denied}", tool.effect.as_str());
    }
    Ok(())
}
