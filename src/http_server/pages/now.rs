//! How the work stands at this moment.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::figures::{Figures, count};
use super::flights::{flights, flights_part, lately, lately_part};
use super::frame::{Section, Shown, nothing, page};
use super::letters::Letters;
use super::{looked_at, viewer};
use crate::http_server::Endpoints;
use crate::http_server::tokens::Scope;
use crate::parking::WaitsFor;
use crate::worker::resources::spending::BudgetScope;

/// A figure of the whole fleet, or why it is not known.
struct Tile {
    name: &'static str,
    value: Result<String, String>,
    address: Option<&'static str>,
    /// Whether somebody should look at it.
    alarms: bool,
}

/// What the page shows.
struct NowView {
    process: String,
    /// Whether the worker does its work and may be given more; else why not.
    verdict: Result<(), String>,
    tiles: Vec<Tile>,
    figures: Figures,
}

pub(super) async fn show(State(facts): State<Endpoints>, headers: HeaderMap) -> Response {
    let viewer = match viewer(&facts, &headers) {
        Ok(viewer) => viewer,
        Err(answer) => return answer,
    };
    let figures = Figures::new(facts.metrics.render());
    let mut tiles = queue_tiles(&figures);
    for waits_for in WaitsFor::ALL {
        let value = facts.parking.count(waits_for).await;
        let value = value.map(|count| count.to_string()).map_err(|error| error.to_string());
        let (name, address) = match waits_for {
            WaitsFor::Authorization => ("wait for their users", None),
            WaitsFor::Approval => ("wait for approval", Some(Section::Inbox.address())),
        };
        tiles.push(Tile { name, value, address, alarms: false });
    }
    for (scope, limit, balance) in facts.pages.spending.balances(facts.pages.clock.now()).await {
        let name = if scope == BudgetScope::Day { "USD of today's budget" } else { "USD of this month's budget" };
        let alarms = balance.as_ref().is_ok_and(|balance| balance.spent >= limit);
        let value = balance.map(|balance| format!("{:.2} of {:.2}", balance.spent.usd(), limit.usd()));
        tiles.push(Tile { name, value: value.map_err(|error| error.to_string()), address: None, alarms });
    }
    let letters = match Letters::of(&facts, &viewer, false).await {
        Letters::Unknown(why) => Err(why),
        Letters::Counted(count) => Ok(count.to_string()),
        Letters::Listed(letters) => Ok(letters.len().to_string()),
    };
    let alarms = letters.as_ref().is_ok_and(|count| count != "0");
    let address = Some(Section::Inbox.address());
    tiles.push(Tile { name: "dead letters", value: letters, address, alarms });
    let view = NowView {
        process: facts.pages.process.clone(),
        verdict: (facts.alive)().and_then(|()| (facts.ready)()),
        tiles,
        figures,
    };
    let fleet = if viewer.holder.allows(Scope::JobsRead) {
        let (flights, lately) = (flights(&facts, &viewer).await, lately(&facts).await);
        html! { (flights_part(&flights, facts.pages.clock.now())) (lately_part(&lately)) }
    } else {
        html! {}
    };
    looked_at(&facts, &headers, &viewer, page(&viewer, Section::Now, "Now", true, &now_parts(&view, &fleet)))
}

/// What is counted of the job queue now and then, where there is a broker.
fn queue_tiles(figures: &Figures) -> Vec<Tile> {
    let told = [("workers", "agentkit_queue_consumers"), ("jobs in the queue", "agentkit_queue_messages")];
    let tiles = told.into_iter().filter_map(|(name, metric)| {
        let queues = figures.by(metric, "queue");
        let (_, value) = queues.into_iter().find(|(queue, _)| queue.rsplit('.').next() == Some("jobs"))?;
        Some(Tile { name, value: Ok(count(value)), address: None, alarms: name == "workers" && value == 0.0 })
    });
    tiles.collect()
}

fn now_parts(view: &NowView, fleet: &Markup) -> Markup {
    html! {
        section data-part="verdict" aria-label="Verdict" {
            @match &view.verdict {
                Ok(()) => p.verdict.good role="status" { "Work is taken and everything that it needs can be reached." },
                Err(why) => p.verdict.bad role="status" { "Work is not taken: " (Shown(why)) "." },
            }
        }
        section data-part="tiles" aria-labelledby="fleet" {
            h2 #fleet { "All workers" }
            dl.tiles { @for tile in &view.tiles { (tile_of(tile)) } }
        }
        (fleet)
        section data-part="process" aria-labelledby="process" {
            h2 #process { "This worker, since it started" }
            p.hint { (Shown(&view.process)) }
            (process_part(&view.figures))
        }
    }
}

fn tile_of(tile: &Tile) -> Markup {
    html! {
        div.tile.trouble[tile.alarms] {
            dd {
                @match &tile.value {
                    Ok(value) => (value),
                    Err(why) => span.unknown title=(why) { "not known" },
                }
            }
            dt { @match tile.address { Some(address) => a href=(address) { (tile.name) }, None => (tile.name) } }
        }
    }
}

fn process_part(figures: &Figures) -> Markup {
    let outcomes = figures.by("agentkit_jobs_total", "outcome");
    let calls = figures.by("agentkit_tool_calls_total", "outcome");
    let models = figures.by("agentkit_model_calls_total", "model");
    let tokens = figures.by("agentkit_model_tokens_total", "kind");
    let all: f64 = outcomes.values().sum();
    let unknown = figures.sum("agentkit_model_cost_unknown_total");
    html! {
        dl.tiles {
            div.tile { dd { (count(figures.sum("agentkit_jobs_in_flight"))) } dt { "runs in flight" } }
            div.tile { dd { (count(all)) } dt { "runs ended" } }
            div.tile { dd { (count(calls.values().sum())) } dt { "tool calls" } }
            div.tile { dd { (count(models.values().sum())) } dt { "model calls" } }
            div.tile { dd { (count(tokens.get("input").copied().unwrap_or_default())) } dt { "tokens in" } }
            div.tile { dd { (count(tokens.get("output").copied().unwrap_or_default())) } dt { "tokens out" } }
            div.tile { dd { (format!("{:.4}", figures.sum("agentkit_model_cost_usd_total"))) } dt { "USD, as far as is known" } }
            @if unknown > 0.0 { div.tile { dd { (count(unknown)) } dt { "model calls of unknown cost" } } }
        }
        @if all == 0.0 { (nothing("No run has ended in this process yet.")) }
        @else {
            table.rows.narrow {
                thead { tr { th scope="col" { "Ended" } th.number scope="col" { "Runs" } th.number scope="col" { "Share" } } }
                tbody { @for (outcome, runs) in outcomes.iter().filter(|(_, runs)| **runs > 0.0) {
                    tr {
                        td data-label="Ended" { (Shown(outcome)) }
                        td.number data-label="Runs" { (count(*runs)) }
                        td.number data-label="Share" { (format!("{:.1} %", runs / all * 100.0)) }
                    }
                } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn view(verdict: Result<(), String>, metrics: &Metrics) -> String {
        let trouble = Tile { name: "dead letters", value: Ok("2".to_owned()), address: Some("inbox"), alarms: true };
        let away = Tile { name: "wait", value: Err("\"><script>".to_owned()), address: None, alarms: false };
        let figures = Figures::new(metrics.render());
        let view = NowView { process: "worker-1-<b>".to_owned(), verdict, tiles: vec![trouble, away], figures };
        now_parts(&view, &html! {}).into_string()
    }

    #[test]
    fn what_is_not_known_is_said_to_be_so_and_reasons_are_text() {
        let text = view(Err("Redis is <full>".to_owned()), &Metrics::default());
        assert!(text.contains("Work is not taken: Redis is &lt;full&gt;."), "{text}");
        assert!(text.contains("not known") && text.contains("No run has ended"), "{text}");
        assert!(!text.contains("<script>") && !text.contains("<b>"), "{text}");
    }

    #[test]
    fn runs_are_told_by_how_they_ended() {
        let metrics = Metrics::default();
        for outcome in ["completed", "completed", "completed", "token_limit"] {
            metrics.job_ended(outcome, 1);
        }
        metrics.queue_stands("agentkit.jobs", 1234, 2);
        let found: Vec<_> = queue_tiles(&Figures::new(metrics.render())).into_iter().map(|tile| tile.value).collect();
        assert_eq!(found, [Ok("2".to_owned()), Ok("1\u{202f}234".to_owned())]);
        metrics.model_cost("gpt-4o", Some(crate::money::Amount::of_nano_usd(1_250_000_000)));
        let text = view(Ok(()), &metrics);
        assert!(text.contains("1.2500") && !text.contains("unknown cost"), "{text}");
        metrics.model_cost("else", None);
        assert!(view(Ok(()), &metrics).contains("model calls of unknown cost"));
        assert!(text.contains("75.0 %") && text.contains("token_limit") && !text.contains("0.0 %"), "{text}");
        assert!(text.contains("Work is taken"), "{text}");
    }
}
