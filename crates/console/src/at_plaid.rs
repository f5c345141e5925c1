//! What Plaid says of Items beside their accounts: webhooks that never came, or go elsewhere, and consents that end.

use crate::Console;
use crate::error::ApiError;
use crate::view::{PageQuery, Paged};
use axum::Json;
use axum::extract::{Query, State};
use domain::Millis;
use domain::item::CONSENT_ENDS_SOON;
use serde::Serialize;
use store::PlaidView;
use utoipa::ToSchema;

/// What Plaid says of an Item, as far as it was asked: when the Item was linked, and by each sweep.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AtPlaid {
    pub(crate) item_id: String,
    /// Plaid's id of the bank.
    pub(crate) institution: Option<String>,
    /// Where its webhooks go; null: nowhere, or Plaid was not asked yet.
    pub(crate) webhook_url: Option<String>,
    /// They go elsewhere than `plaid.webhook_url` says.
    pub(crate) elsewhere: bool,
    pub(crate) consent_ends_at: Option<String>,
    /// The code of the last webhook that Plaid sent, and when.
    pub(crate) last_sent: Option<String>,
    pub(crate) last_sent_at: Option<String>,
    /// Type and code of the last webhook that came, and when.
    pub(crate) last_heard: Option<String>,
    pub(crate) last_heard_at: Option<String>,
    /// The last one that Plaid sent never came.
    pub(crate) missed: bool,
    /// When Plaid said it; null: it was not asked yet.
    pub(crate) read_at: Option<String>,
}

impl From<PlaidView> for AtPlaid {
    fn from(view: PlaidView) -> Self {
        let time = |told: &Option<(Millis, String)>| told.as_ref().map(|(at, _)| at.rfc3339());
        let (last_sent_at, last_heard_at) = (time(&view.said.sent), time(&view.heard));
        Self {
            item_id: view.item.to_string(),
            institution: view.said.institution,
            webhook_url: view.said.webhook_url,
            elsewhere: view.said.elsewhere,
            consent_ends_at: view.said.consent_until.map(Millis::rfc3339),
            last_sent: view.said.sent.map(|(_, code)| code),
            last_sent_at,
            last_heard: view.heard.map(|(_, what)| what),
            last_heard_at,
            missed: view.is_missed,
            read_at: view.read_at.map(Millis::rfc3339),
        }
    }
}

fn page(rows: Vec<PlaidView>, query: &PageQuery, cursor: fn(&PlaidView) -> String) -> Json<Paged<AtPlaid>> {
    Json(Paged::new(rows, query, cursor).map(AtPlaid::from))
}

/// Items whose last webhook, as Plaid says, never came. The sweep that noticed it has looked at the Item.
#[utoipa::path(get, operation_id = "listMissedWebhooks", path = "/v1/webhooks/missed", params(PageQuery),
    responses((status = 200, body = Paged<AtPlaid>)))]
pub(crate) async fn missed(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<AtPlaid>>, ApiError> {
    let rows = console.store.begin_read().await?.list_missed(&query.page()?).await?;
    Ok(page(rows, &query, |view| view.item.to_string()))
}

/// Items whose webhooks go elsewhere than `plaid.webhook_url` says.
#[utoipa::path(get, operation_id = "listWebhooksElsewhere", path = "/v1/webhooks/elsewhere", params(PageQuery),
    responses((status = 200, body = Paged<AtPlaid>)))]
pub(crate) async fn elsewhere(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<AtPlaid>>, ApiError> {
    let rows = console.store.begin_read().await?.list_elsewhere(&query.page()?).await?;
    Ok(page(rows, &query, |view| view.item.to_string()))
}

/// Items whose consent ends within 30 days, or has ended, the first end first.
#[utoipa::path(get, operation_id = "listConsents", path = "/v1/consents", params(PageQuery),
    responses((status = 200, body = Paged<AtPlaid>)))]
pub(crate) async fn consents(
    State(console): State<Console>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Paged<AtPlaid>>, ApiError> {
    let rows = console.store.begin_read().await?.list_consents(CONSENT_ENDS_SOON, &query.page()?).await?;
    Ok(page(rows, &query, |view| format!("{}/{}", view.said.consent_until.map_or(0, |at| at.0), view.item)))
}
