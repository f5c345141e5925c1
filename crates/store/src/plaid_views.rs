//! What Plaid says of an Item beside its accounts, and which webhooks about it came: whether one is missing, where they go, when
//! its consent ends.

use crate::sql::{Of, built, get, number, opt_text, records, row, sql, text};
use crate::{Error, Page, Tx};
use domain::{ItemId, Millis};
use sqlx::any::AnyRow;
use std::collections::BTreeMap;
use std::time::Duration;

/// What Plaid said of an Item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemSaid {
    /// Plaid's id of the bank.
    pub institution: Option<String>,
    /// Where its webhooks go. None: nowhere.
    pub webhook_url: Option<String>,
    /// They go elsewhere than the settings say.
    pub elsewhere: bool,
    pub consent_until: Option<Millis>,
    /// The last webhook that Plaid sent, and when. None: it was not asked, or says nothing.
    pub sent: Option<(Millis, String)>,
}

/// What is known of an Item beside its accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaidView {
    pub item: ItemId,
    pub said: ItemSaid,
    /// When Plaid said it. None: it has not been asked yet.
    pub read_at: Option<Millis>,
    /// The last webhook that came, as `TYPE/CODE`, and when.
    pub heard: Option<(Millis, String)>,
    /// The last webhook that Plaid sent never came.
    pub is_missed: bool,
}

/// What wants a look beside rows that are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attention {
    /// Items whose last webhook never came.
    pub missed_webhooks: i64,
    /// Items whose webhooks go elsewhere than the settings say.
    pub webhooks_elsewhere: i64,
    pub consents_ending: i64,
    /// What nobody could read and nobody has looked at.
    pub dead_letters: i64,
    /// Businesses whose lists an operator keeps from being sent.
    pub kept_back: i64,
}

/// A webhook that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    pub(crate) item: &'a ItemId,
    pub(crate) at: Millis,
    /// Type and code.
    pub(crate) what: (&'a str, &'a str),
}

/// In the words of the index `plaid_views_missed`, or it does not serve.
const MISSED: &str = "sent_at > missed_from
    AND sent_at > COALESCE(heard_at, 0) + CASE WHEN heard_code = sent_code THEN 60000 ELSE 0 END";

const ELSEWHERE: &str = "elsewhere = 1";

const HEARD: [(&str, Of); 4] =
    [("item_id", Of::Text), ("heard_at", Of::Number), ("heard_type", Of::Text), ("heard_code", Of::Text)];

impl Tx {
    /// Webhooks about Items came.
    pub(crate) async fn hear(&mut self, heard: &[Heard<'_>]) -> Result<(), Error> {
        let mut newest: BTreeMap<&ItemId, &Heard<'_>> = BTreeMap::new();
        for one in heard {
            let kept = newest.entry(one.item).or_insert(one);
            if one.at >= kept.at {
                *kept = one;
            }
        }
        if newest.is_empty() {
            return Ok(());
        }
        let from = self.dialect.records(&HEARD, 1);
        let sql = format!(
            "INSERT INTO plaid_views (item_id, heard_at, heard_type, heard_code, missed_from)
            SELECT item_id, heard_at, heard_type, heard_code, $2 FROM {from} WHERE 1 = 1
            ON CONFLICT (item_id) DO UPDATE SET heard_at = excluded.heard_at, heard_type = excluded.heard_type,
                heard_code = excluded.heard_code
                WHERE plaid_views.heard_at IS NULL OR excluded.heard_at >= plaid_views.heard_at"
        );
        let rows = records(&HEARD, newest.into_values().map(|h| row![h.item, h.at, h.what.0, h.what.1]));
        self.run(sql!(built(sql), rows, self.now())).await.map(drop)
    }

    /// Plaid said this of an Item. Some: its consent ends within `soon`, and nobody was told of this end yet; now they are.
    pub async fn record_said(
        &mut self,
        item: &ItemId,
        said: &ItemSaid,
        soon: Duration,
    ) -> Result<Option<Millis>, Error> {
        let ItemSaid { institution, webhook_url, elsewhere, consent_until, sent } = said;
        let sql = "INSERT INTO plaid_views (item_id, institution, webhook_url, consent_until, sent_at, sent_code, missed_from, read_at,
                elsewhere)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8)
            ON CONFLICT (item_id) DO UPDATE SET institution = $2, webhook_url = $3, consent_until = $4, read_at = $7, elsewhere = $8,
                sent_at = COALESCE($5, plaid_views.sent_at), sent_code = COALESCE($6, plaid_views.sent_code)
            RETURNING consent_told";
        let (sent_at, code) = sent.as_ref().map_or((None, None), |(at, code)| (Some(*at), Some(code.clone())));
        let query = sql!(sql, item, institution, webhook_url, consent_until, sent_at, code, self.now(), *elsewhere);
        let told: Option<Millis> = self.row(query).await?.map(|r| get(&r, "consent_told")).transpose()?.flatten();
        let ends = consent_until.filter(|until| *until <= self.now().plus(soon) && told != Some(*until));
        if let Some(until) = ends {
            self.run(sql!("UPDATE plaid_views SET consent_told = $2 WHERE item_id = $1", item, until)).await?;
        }
        Ok(ends)
    }

    /// What is known of an Item beside its accounts. None: nothing yet.
    pub async fn plaid_view(&mut self, item: &ItemId) -> Result<Option<PlaidView>, Error> {
        let sql =
            format!("SELECT v.*, CASE WHEN {MISSED} THEN 1 ELSE 0 END AS missed FROM plaid_views v WHERE item_id = $1");
        self.row(sql!(built(sql), item)).await?.map(|r| view(&r)).transpose()
    }

    /// Items whose last webhook never came, by id.
    pub async fn list_missed(&mut self, page: &Page) -> Result<Vec<PlaidView>, Error> {
        self.views_where(MISSED, page).await
    }

    /// Items whose webhooks go elsewhere than the settings say, by id.
    pub async fn list_elsewhere(&mut self, page: &Page) -> Result<Vec<PlaidView>, Error> {
        self.views_where(ELSEWHERE, page).await
    }

    async fn views_where(&mut self, which: &str, page: &Page) -> Result<Vec<PlaidView>, Error> {
        let sql = format!(
            "SELECT v.*, CASE WHEN {MISSED} THEN 1 ELSE 0 END AS missed FROM plaid_views v
            WHERE {which} AND item_id > $1 ORDER BY item_id LIMIT $2"
        );
        let rows = self.rows(sql!(built(sql), page.after.clone().unwrap_or_default(), page.limit)).await?;
        rows.iter().map(view).collect()
    }

    /// Items whose consent ends within `soon`, the first end first. The cursor is `end/item`.
    pub async fn list_consents(&mut self, soon: Duration, page: &Page) -> Result<Vec<PlaidView>, Error> {
        let after = page.after.as_deref().and_then(|a| a.split_once('/'));
        let (end, item) = after.and_then(|(end, item)| Some((end.parse().ok()?, item))).unwrap_or((i64::MIN, ""));
        let sql = format!(
            "SELECT v.*, CASE WHEN {MISSED} THEN 1 ELSE 0 END AS missed FROM plaid_views v
            WHERE consent_until <= $1 AND consent_until >= $2 AND (consent_until > $2 OR item_id > $3)
            ORDER BY consent_until, item_id LIMIT $4"
        );
        let query = sql!(built(sql), self.now().plus(soon), end, item, page.limit);
        self.rows(query).await?.iter().map(view).collect()
    }

    /// How many Items wait for somebody's look, of each kind `most` at most.
    pub async fn count_attention(&mut self, soon: Duration, most: u32) -> Result<Attention, Error> {
        let up_to = |of: &str| format!("(SELECT COUNT(*) FROM (SELECT 1 AS one FROM {of} LIMIT $2) AS counted)");
        let views = |which: &str| up_to(&format!("plaid_views WHERE {which}"));
        let sql = format!(
            "SELECT {} AS missed, {} AS elsewhere, {} AS consents, {} AS letters, {} AS kept_back",
            views(MISSED),
            views(ELSEWHERE),
            views("consent_until <= $1"),
            up_to("dead_letters WHERE dismissed_at IS NULL"),
            up_to("businesses WHERE kept_back IS NOT NULL")
        );
        let row = self.row(sql!(built(sql), self.now().plus(soon), most)).await?;
        let count = |name| row.as_ref().map_or(Ok(0), |row| number(row, name));
        Ok(Attention {
            missed_webhooks: count("missed")?,
            webhooks_elsewhere: count("elsewhere")?,
            consents_ending: count("consents")?,
            dead_letters: count("letters")?,
            kept_back: count("kept_back")?,
        })
    }

    /// An operator has looked at what became of the webhook that did not come. False: none is missing.
    pub async fn acknowledge_missed(&mut self, item: &ItemId) -> Result<bool, Error> {
        let sql = format!("UPDATE plaid_views SET missed_from = sent_at WHERE item_id = $1 AND {MISSED}");
        Ok(self.run(sql!(built(sql), item)).await? > 0)
    }
}

fn view(row: &AnyRow) -> Result<PlaidView, Error> {
    let heard =
        opt_text(row, "heard_type")?.zip(opt_text(row, "heard_code")?).map(|(kind, code)| format!("{kind}/{code}"));
    Ok(PlaidView {
        item: ItemId::from_stored(text(row, "item_id")?),
        said: ItemSaid {
            institution: opt_text(row, "institution")?,
            webhook_url: opt_text(row, "webhook_url")?,
            elsewhere: get::<bool>(row, "elsewhere")?,
            consent_until: get(row, "consent_until")?,
            sent: get::<Option<Millis>>(row, "sent_at")?.zip(opt_text(row, "sent_code")?),
        },
        read_at: get(row, "read_at")?,
        heard: get::<Option<Millis>>(row, "heard_at")?.zip(heard),
        is_missed: get::<bool>(row, "missed")?,
    })
}
