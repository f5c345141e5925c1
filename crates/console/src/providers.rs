//! Providers: whether their work is stopped, and why; an operator may stop it, let it go on, or have it asked now.

use crate::Console;
use crate::acts::checked_reason;
use crate::auth::Caller;
use crate::error::{ApiError, ErrorBody};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use domain::{Provider, words};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::{Act, PauseRow, Tx};
use utoipa::{IntoParams, ToSchema};

words!(
    /// What an operator can order of a provider.
    ProviderOrder {
        /// Stop its work until somebody resumes it.
        Pause => "pause",
        /// Let its work go on, whatever it was stopped for.
        Resume => "resume",
        /// Ask it now, and not only when the next probe is due.
        Probe => "probe",
    }
);

impl ProviderOrder {
    /// What comes of it.
    pub(crate) fn effect(self) -> &'static str {
        match self {
            Self::Pause => "Stops all its work until somebody resumes it; what is due waits.",
            Self::Resume => "Lets its work go on now. If it still refuses everybody, it is paused again by itself.",
            Self::Probe => "Asks it within seconds; work goes on by itself when it answers.",
        }
    }

    /// What a page tells afterwards.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Pause => "Paused: its work waits until somebody resumes it.",
            Self::Resume => "Resumed: what was waiting is due now.",
            Self::Probe => "It is asked within seconds: this page shows what comes of it.",
        }
    }
}

/// A provider whose work is stopped.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Pause {
    pub(crate) provider: String,
    pub(crate) reason: String,
    pub(crate) since: String,
    /// When it is asked next, and goes on by itself if it answers. Null: an operator paused it, and no probe ends that.
    pub(crate) next_probe_at: Option<String>,
    /// The admin token of the operator who paused it. Null: it refuses everybody.
    pub(crate) ordered_by: Option<String>,
}

impl From<PauseRow> for Pause {
    fn from(row: PauseRow) -> Self {
        Self {
            provider: row.provider.to_string(),
            reason: row.reason,
            since: row.since.rfc3339(),
            next_probe_at: row.ordered_by.is_none().then(|| row.probe_at.rfc3339()),
            ordered_by: row.ordered_by,
        }
    }
}

pub(crate) async fn paused(tx: &mut Tx) -> Result<Vec<Pause>, store::Error> {
    Ok(tx.pauses().await?.into_iter().map(Pause::from).collect())
}

/// Paused providers. A pause ends by itself when a probe succeeds, unless an operator ordered it.
#[utoipa::path(get, operation_id = "listPauses", path = "/v1/pauses", responses((status = 200, body = Vec<Pause>)))]
pub(crate) async fn pauses(State(console): State<Console>) -> Result<Json<Vec<Pause>>, ApiError> {
    Ok(Json(paused(&mut console.store.begin_read().await?).await?))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProviderQuery {
    /// Why, for the audit trail; a pause shows it to everybody.
    reason: Option<String>,
}

/// Stop all work of a provider until it is resumed. Needs a reason. Answers what is paused then.
#[utoipa::path(post, operation_id = "pauseProvider", path = "/v1/providers/{provider}/pause",
    params(("provider" = String, Path), ProviderQuery),
    responses((status = 200, body = Vec<Pause>), (status = 404, body = ErrorBody)))]
pub(crate) async fn pause(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(provider): Path<String>,
    Query(query): Query<ProviderQuery>,
) -> Result<Json<Vec<Pause>>, ApiError> {
    order(&console, &caller, &provider, ProviderOrder::Pause, &query).await
}

/// Let the work of a provider go on, whatever it was stopped for. Answers what is paused then.
#[utoipa::path(post, operation_id = "resumeProvider", path = "/v1/providers/{provider}/resume",
    params(("provider" = String, Path), ProviderQuery),
    responses((status = 200, body = Vec<Pause>), (status = 404, body = ErrorBody, description = "It is not paused")))]
pub(crate) async fn resume(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(provider): Path<String>,
    Query(query): Query<ProviderQuery>,
) -> Result<Json<Vec<Pause>>, ApiError> {
    order(&console, &caller, &provider, ProviderOrder::Resume, &query).await
}

/// Have a paused provider asked now, and not only when its next probe is due. Answers what is paused then.
#[utoipa::path(post, operation_id = "probeProvider", path = "/v1/providers/{provider}/probe",
    params(("provider" = String, Path), ProviderQuery),
    responses((status = 200, body = Vec<Pause>), (status = 404, body = ErrorBody, description = "It is not paused, or by an operator")))]
pub(crate) async fn probe(
    State(console): State<Console>,
    Extension(caller): Extension<Caller>,
    Path(provider): Path<String>,
    Query(query): Query<ProviderQuery>,
) -> Result<Json<Vec<Pause>>, ApiError> {
    order(&console, &caller, &provider, ProviderOrder::Probe, &query).await
}

async fn order(
    console: &Console,
    caller: &Caller,
    provider: &str,
    order: ProviderOrder,
    query: &ProviderQuery,
) -> Result<Json<Vec<Pause>>, ApiError> {
    let Some(provider) = Provider::from_word(provider) else {
        return Err(ApiError::not_found("provider", "they are `plaid` and `layer`"));
    };
    carry_out(console, caller, provider, order, query.reason.as_deref()).await?;
    Ok(Json(paused(&mut console.store.begin_read().await?).await?))
}

/// Carries it out.
pub(crate) async fn carry_out(
    console: &Console,
    caller: &Caller,
    provider: Provider,
    order: ProviderOrder,
    reason: Option<&str>,
) -> Result<(), ApiError> {
    let reason = checked_reason(reason)?;
    if order == ProviderOrder::Pause && reason.is_none() {
        return Err(ApiError::bad_request("say why (`reason`): it is shown to whoever meets the pause"));
    }
    let mut tx = console.store.begin().await?;
    let before = tx.pauses().await?.into_iter().find(|p| p.provider == provider);
    let is_so = match order {
        ProviderOrder::Pause => {
            tx.pause_by_order(provider, reason.unwrap_or_default(), &caller.name).await?;
            true
        }
        ProviderOrder::Resume => tx.resume(provider).await?,
        ProviderOrder::Probe => tx.probe_now(provider).await?,
    };
    if !is_so {
        tx.rollback().await?;
        return Err(ApiError::nothing_to_do(match before {
            Some(_) => format!(
                "an operator paused {provider}, and no probe ends that: `rekey provider resume {provider}` does"
            ),
            None => format!("{provider} is not paused: its work goes on, and nothing waits for this"),
        }));
    }
    let (was, became) = (before.map(|p| json!({"paused": p.reason})), reason.map(|r| json!({"reason": r})));
    let action = format!("provider.{order}");
    tx.audit(&Act { was, became, ..caller.act(&action, &format!("provider/{provider}")) }).await?;
    tx.commit().await?;
    tracing::warn!(%provider, %order, by = caller.name, "ordered by an operator");
    Ok(())
}
