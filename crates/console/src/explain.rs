//! Why a business or an Item stands as it does, what comes next, and what somebody can do.

use crate::Console;
use crate::acts::version_of;
use crate::at_plaid::AtPlaid;
use crate::businesses::no_business;
use crate::error::{ApiError, ErrorBody};
use crate::history::{Happened, timeline};
use crate::items::no_item;
use crate::status::observes;
use crate::view::{Account, Blocked, Item, Token, VerdictView, Work};
use axum::Json;
use axum::extract::{Path, State};
use domain::explain::{Line, Standing, remedies, side_by_side};
use domain::foreseen::Foreseen;
use domain::token_list::{Listed, Plan, Put, Shown, Wanted, plan};
use domain::work::{Block, Kind, Subject};
use domain::{AccountId, BusinessId, ItemId};
use serde::Serialize;
use std::collections::BTreeMap;
use store::{AccountRow, BusinessRow, Judged, Page, Tx};
use utoipa::ToSchema;

/// Entries of the timeline that an explanation tells.
const TOLD: u32 = 20;

/// An account of a list: what belongs into it and what Layer shows, side by side.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountLine {
    pub(crate) account_id: String,
    /// Null: Layer lists an account of an Item that is gone, or of another business.
    pub(crate) item_id: Option<String>,
    pub(crate) mask: Option<String>,
    pub(crate) name: Option<String>,
    /// The fingerprint of the token that belongs into the list, and the generation that it was minted under.
    pub(crate) wanted: Option<String>,
    pub(crate) generation: Option<i64>,
    /// The Item's generation: a token of an earlier one waits for another.
    pub(crate) item_generation: Option<i64>,
    /// What Layer showed of it when the list was read last.
    pub(crate) at_layer: Vec<LayerRow>,
    /// It stands in the list with its token.
    pub(crate) right: bool,
    /// The kind of what is wrong, such as `mint_refused`; null where nothing is.
    pub(crate) problem: Option<String>,
    /// The provider's code for it.
    pub(crate) code: Option<String>,
    pub(crate) why: String,
    /// When Rekey tries again.
    pub(crate) again_at: Option<String>,
}

/// A row that Layer showed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LayerRow {
    /// Its fingerprint; null where Layer does not show tokens.
    pub(crate) token: Option<String>,
    /// `active`, `archived` or `other`.
    pub(crate) status: String,
}

/// A row at Layer that nobody here knows, by what Layer shows of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stranger {
    pub(crate) token: Option<String>,
    pub(crate) account_id: Option<String>,
    pub(crate) mask: Option<String>,
    pub(crate) name: Option<String>,
    /// What an operator decided of it: `keep` or `remove`.
    pub(crate) word: Option<String>,
}

/// An operator keeps a list from being sent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeptBack {
    pub(crate) why: String,
    pub(crate) since: String,
}

/// What the next reconciliation would send, if nothing else changes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextList {
    /// `nothing`: the lists are equal. `put`: the list is sent. `wait`: tokens are minted first. `hold`: a guard would stop it.
    /// `unknown`: no reading of the list is kept since the last one was accepted, or it could not be read. Of a plan also
    /// `create`: Layer gets the business with its tokens; `parked`: the business needs a person; `retry`: a provider refuses for now.
    pub(crate) would: String,
    pub(crate) why: Option<String>,
    /// Tokens that the list would hold.
    pub(crate) tokens: Option<usize>,
    /// Account ids.
    pub(crate) added: Vec<String>,
    pub(crate) replaced: Vec<String>,
    pub(crate) removed: Vec<String>,
    /// Fingerprints of tokens that nobody here knows and that an operator told to remove.
    pub(crate) discarded: Vec<String>,
    /// Wanted, and left out until their new tokens are minted.
    pub(crate) left_out: Vec<String>,
    /// Wanted, and left out because somebody archived them at Layer.
    pub(crate) archived: Vec<String>,
}

/// Something that a person can do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Remedy {
    /// For a terminal.
    pub(crate) command: String,
    /// What comes of it.
    pub(crate) effect: String,
}

/// Why a business stands as it does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BusinessExplained {
    pub(crate) business_id: String,
    pub(crate) layer_id: Option<String>,
    pub(crate) verdict: Option<VerdictView>,
    /// When the list at Layer was read last; null: no reading is kept.
    pub(crate) list_shown_at: Option<String>,
    pub(crate) accounts: Vec<AccountLine>,
    pub(crate) strangers: Vec<Stranger>,
    /// Accounts that Layer connected itself: Rekey never touches them.
    pub(crate) layer_owned: usize,
    pub(crate) next_list: NextList,
    pub(crate) blocked: Option<Blocked>,
    /// An operator told to send nothing.
    pub(crate) kept_back: Option<KeptBack>,
    /// What an act on it rests on: send it as `version`, and the act is refused if the row is another one by then.
    pub(crate) version: String,
    /// A consumer in observe mode is at work: nothing is minted or sent. A plan tells what would be.
    pub(crate) observes: bool,
    pub(crate) remedies: Vec<Remedy>,
    /// The newest entries of `GET /v1/history`.
    pub(crate) history: Vec<Happened>,
}

/// Why an Item stands as it does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ItemExplained {
    #[serde(flatten)]
    pub(crate) item: Item,
    pub(crate) access_tokens: Vec<Token>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) work: Option<Work>,
    /// What Plaid says of it beside its accounts. Null: it was not asked yet, and nothing was heard.
    pub(crate) at_plaid: Option<AtPlaid>,
    /// What an act on it rests on: send it as `version`, and the act is refused if the row is another one by then.
    pub(crate) version: String,
    /// Items that are about to take its place.
    pub(crate) heirs: Vec<String>,
    /// The businesses that its accounts are in or leave, with their verdicts' states.
    pub(crate) businesses: BTreeMap<String, String>,
    /// A consumer in observe mode is at work: nothing is minted or sent. A plan tells what would be.
    pub(crate) observes: bool,
    pub(crate) remedies: Vec<Remedy>,
    /// The newest entries of `GET /v1/history`.
    pub(crate) history: Vec<Happened>,
}

/// Why a business stands as it does: what belongs into its list and what Layer shows, account by account; what would be sent
/// next; what somebody can do; what happened. Read from the store: neither Plaid nor Layer is asked.
#[utoipa::path(get, operation_id = "explainBusiness", path = "/v1/businesses/{business_id}/explain", params(("business_id" = String, Path)),
    responses((status = 200, body = BusinessExplained), (status = 404, body = ErrorBody)))]
pub(crate) async fn business(
    State(console): State<Console>,
    Path(business): Path<String>,
) -> Result<Json<BusinessExplained>, ApiError> {
    let id = BusinessId::parse(business)?;
    let mut tx = console.store.begin_read().await?;
    let row = tx.business(&id).await?.ok_or_else(no_business)?;
    let facts = tx.facts_of(&id).await?.ok_or_else(no_business)?;
    let work = tx.work(&id).await?;
    let judged = tx.verdict(&id).await?;
    let (next_list, shown, listed) = next_list(&console, &mut tx, &row).await?;
    let lines = judged.as_ref().map(|j| side_by_side(&facts, &j.verdict, listed.as_deref())).unwrap_or_default();
    let items: Vec<ItemId> = facts.items.iter().map(|item| item.id.clone()).collect();
    let traits = tx.accounts_of(&items).await?;
    let subject = Subject::from(&id);
    let blocked = work.as_ref().map(Work::from).and_then(|work| work.blocked);
    Ok(Json(BusinessExplained {
        observes: observes(&mut tx).await?,
        business_id: id.to_string(),
        layer_id: row.layer_id.map(|l| l.to_string()),
        remedies: remedies_of(&subject, judged.as_ref()),
        verdict: judged.as_ref().map(VerdictView::from),
        list_shown_at: row.shown_at.map(domain::Millis::rfc3339),
        accounts: lines.iter().map(|line| AccountLine::new(line, &traits)).collect(),
        strangers: strangers(shown.as_deref(), listed.as_deref()),
        layer_owned: shown.iter().flatten().filter(|row| row.layer_owned).count(),
        next_list,
        blocked,
        kept_back: row.kept_back.map(|(why, since)| KeptBack { why, since: since.rfc3339() }),
        version: version_of(&mut tx, &subject).await?,
        history: told(&mut tx, &subject).await?,
    }))
}

/// The list of a business, as it would be sent next: by the reconciler's own plan, from what Layer showed last. With it, what Layer
/// showed, and what is known of that.
pub(crate) async fn next_list(
    console: &Console,
    tx: &mut Tx,
    row: &BusinessRow,
) -> Result<(NextList, Option<Vec<Shown>>, Option<Vec<Listed>>), store::Error> {
    let id = &row.id;
    // What was read before the last list was accepted says nothing about this one, nor does any list of a business that Layer has
    // no more.
    let is_of_now = row.layer_id.is_some() && row.shown_at.is_some() && row.shown_at >= row.put_at;
    let Some(shown) = tx.shown(id).await?.filter(|_| is_of_now) else { return Ok((NextList::unknown(), None, None)) };
    let work = tx.work(id).await?;
    let listed = tx.recognise(id, &shown).await?;
    let wanted = tx.wanted_accounts(id).await?.into_iter();
    let wanted: Vec<Wanted> =
        wanted.map(|w| Wanted { account: w.account, token: w.token, older_generation: w.older_generation }).collect();
    let policy = row.policy(&console.policy);
    let permit = work.as_ref().and_then(|work| work.permit.as_ref());
    let next = NextList::of(plan(&wanted, &listed, &row.accepted, &policy, permit));
    let next = next.held_by(work.as_ref().filter(|work| work.permit.is_none()).and_then(|work| work.blocked.as_ref()));
    Ok((next, Some(shown), Some(listed)))
}

/// Why an Item stands as it does, what somebody can do, and what happened.
#[utoipa::path(get, operation_id = "explainItem", path = "/v1/items/{item_id}/explain", params(("item_id" = String, Path)),
    responses((status = 200, body = ItemExplained), (status = 404, body = ErrorBody)))]
pub(crate) async fn item(
    State(console): State<Console>,
    Path(item): Path<String>,
) -> Result<Json<ItemExplained>, ApiError> {
    let id = ItemId::parse(item)?;
    let mut tx = console.store.begin_read().await?;
    let row = tx.item(&id).await?.ok_or_else(no_item)?;
    let judged = tx.verdict(&id).await?;
    let businesses: Vec<String> = tx.businesses_of_item(&id).await?.iter().map(ToString::to_string).collect();
    let verdicts = tx.verdicts(Kind::Business, &businesses).await?;
    let businesses = verdicts.iter().map(|j| (j.subject.id().to_owned(), j.verdict.state.to_string()));
    let (subject, work) = (Subject::from(&id), tx.work(&id).await?);
    Ok(Json(ItemExplained {
        observes: observes(&mut tx).await?,
        item: Item::new(&row, judged.as_ref()),
        heirs: tx.heirs_of(&id).await?.iter().map(ToString::to_string).collect(),
        access_tokens: tx.token_views(&id).await?.iter().map(Token::from).collect(),
        accounts: tx.accounts(&id).await?.iter().map(Account::from).collect(),
        version: version_of(&mut tx, &subject).await?,
        at_plaid: tx.plaid_view(&id).await?.map(AtPlaid::from),
        work: work.as_ref().map(Work::from),
        businesses: businesses.collect(),
        remedies: remedies_of(&subject, judged.as_ref()),
        history: told(&mut tx, &subject).await?,
    }))
}

async fn told(tx: &mut Tx, subject: &Subject) -> Result<Vec<Happened>, store::Error> {
    timeline(tx, subject, &Page { after: None, limit: TOLD }).await
}

fn remedies_of(subject: &Subject, judged: Option<&Judged>) -> Vec<Remedy> {
    let found = judged.map(|j| remedies(subject, &j.verdict)).unwrap_or_default();
    found.into_iter().map(|r| Remedy { command: r.command, effect: r.effect.to_owned() }).collect()
}

impl AccountLine {
    /// The Item's generation, where that is not its token's.
    pub(crate) fn generation_now(&self) -> Option<i64> {
        self.item_generation.filter(|now| self.generation != Some(*now))
    }

    fn new(line: &Line, traits: &[AccountRow]) -> Self {
        let of = traits.iter().find(|row| row.id == line.account && line.item.as_ref().is_none_or(|i| *i == row.item));
        let wrong = match &line.standing {
            Standing::Wrong(wrong) => Some(wrong),
            _ => None,
        };
        Self {
            account_id: line.account.to_string(),
            item_id: line.item.as_ref().map(ToString::to_string),
            mask: of.and_then(|row| row.traits.mask.clone()),
            name: of.and_then(|row| row.traits.name.clone()),
            wanted: line.token.as_ref().map(|(token, _)| token.to_string()),
            generation: line.token.as_ref().map(|(_, generation)| *generation),
            item_generation: line.generation,
            at_layer: line
                .shown
                .iter()
                .map(|row| LayerRow {
                    token: row.token.as_ref().map(ToString::to_string),
                    status: row.status.to_string(),
                })
                .collect(),
            right: line.standing == Standing::Right,
            problem: wrong.map(|w| w.problem.to_string()),
            code: wrong.and_then(|w| w.code.clone()),
            why: line.standing.sentence().to_owned(),
            again_at: wrong.and_then(|w| w.again_at).map(domain::Millis::rfc3339),
        }
    }
}

/// Active rows of nobody here.
fn strangers(shown: Option<&[Shown]>, listed: Option<&[Listed]>) -> Vec<Stranger> {
    let rows = shown.into_iter().flatten().zip(listed.into_iter().flatten());
    let strange = rows.filter(|(_, row)| row.status.is_row() && !row.layer_owned && row.ours.is_none());
    let told = strange.map(|(shown, row)| Stranger {
        token: shown.token.as_ref().map(ToString::to_string),
        account_id: shown.account.as_ref().map(ToString::to_string),
        mask: shown.mask.clone(),
        name: shown.name.clone(),
        word: row.word.map(|word| word.to_string()),
    });
    told.collect()
}

impl NextList {
    fn new(would: &str, why: Option<String>) -> Self {
        Self {
            would: would.into(),
            why,
            tokens: None,
            added: Vec::new(),
            replaced: Vec::new(),
            removed: Vec::new(),
            discarded: Vec::new(),
            left_out: Vec::new(),
            archived: Vec::new(),
        }
    }

    /// Every token of these accounts is minted first, and then takes the place of the one that there is.
    pub(crate) fn once_minted(tokens: usize, accounts: Vec<String>) -> Self {
        let why = "once their new tokens are minted; the ones of now stay until then";
        Self { tokens: Some(tokens), replaced: accounts, ..Self::new("put", Some(why.into())) }
    }

    /// By a rehearsal.
    pub(crate) fn foreseen(it: Foreseen) -> Self {
        match it.put {
            Some(put) => Self { why: it.why, ..Self::sent(&put) },
            None => Self::new(it.would.as_str(), it.why),
        }
    }

    fn sent(put: &Put) -> Self {
        let ids = |accounts: &[AccountId]| accounts.iter().map(ToString::to_string).collect();
        let Put { tokens, added, replaced, removed, discarded, left_out, archived, resent: _ } = put;
        Self {
            tokens: Some(tokens.len()),
            added: ids(added),
            replaced: ids(replaced),
            removed: ids(removed),
            discarded: discarded.iter().map(ToString::to_string).collect(),
            left_out: ids(left_out),
            archived: ids(archived),
            ..Self::new("put", None)
        }
    }

    fn unknown() -> Self {
        let why = "no reading of the list at Layer is kept since it accepted the last one";
        Self::new("unknown", Some(why.into()))
    }

    /// Guards that look at more than this list: at what the whole fleet loses, at whether strangers are alive at Plaid. They have
    /// looked, and said why.
    fn held_by(self, blocked: Option<&domain::queue::Blocked>) -> Self {
        match blocked.filter(|b| b.by == Block::Hold && self.would == "put") {
            Some(blocked) => Self { would: "hold".into(), why: Some(blocked.why.clone()), ..self },
            None => self,
        }
    }

    fn of(plan: Plan) -> Self {
        let ids = |accounts: &[AccountId]| accounts.iter().map(ToString::to_string).collect();
        match plan {
            Plan::Converged { left_out, archived, verified: _ } => {
                Self { left_out: ids(&left_out), archived: ids(&archived), ..Self::new("nothing", None) }
            }
            Plan::Wait { left_out } => {
                let why = "Layer refuses the tokens that these accounts have: new ones are minted first";
                Self { left_out: ids(&left_out), ..Self::new("wait", Some(why.into())) }
            }
            Plan::Hold(hold) => Self::new("hold", Some(hold.to_string())),
            Plan::Put(put) => Self::sent(&put),
        }
    }
}
