//! What a plan is made of: the truth on our side, the list on Layer's.

use super::Reconciliation;
use crate::Context;
use crate::budget::{self, Slot};
use crate::reconcile::Stop;
use crate::steps;
use domain::budget::Call;
use domain::hold::Hold;
use domain::token_list::{Listed, Shown, UnknownPolicy, Wanted};
use domain::work::Subject;
use domain::{AccountId, Fingerprint, ItemId, LayerId, ProcessorToken};
use layer::{ListedAccount, Meaning, PagedList};
use plaid::TokenHealth;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use store::Claim;
use tracing::field::Empty;

pub(super) struct Facts {
    pub(super) wanted: Vec<Wanted>,
    pub(super) listed: Vec<Listed>,
    /// The Items that the wanted accounts belong to, and their tokens.
    pub(super) items: BTreeMap<ItemId, BTreeSet<Fingerprint>>,
    /// Every token that a PUT may have to name.
    pub(super) tokens: HashMap<Fingerprint, ProcessorToken>,
    /// How many events there had been when our side was read.
    pub(super) events: i64,
    /// Whose rows are written once the list is read back without the accounts that are leaving it, this business's own among
    /// them; none while no account leaves.
    pub(super) leaving: Vec<Subject>,
}

impl Facts {
    /// The tokens of these accounts.
    pub(super) fn tokens_of(&self, accounts: &[AccountId]) -> impl Iterator<Item = Fingerprint> {
        self.wanted.iter().filter(|w| accounts.contains(&w.account)).filter_map(|w| w.token.clone())
    }
}

pub(super) async fn gather(of: &mut Reconciliation<'_>, layer_id: &LayerId) -> Result<Facts, Stop> {
    if of.claim.needs == Some(Call::Layer) {
        // It has waited before: it does not ask Layer each time. The first time it does so while tokens are minted.
        drop(of.read_our_side().await?);
    }
    let rows = list(of, layer_id).await?;
    let mut tx = of.read_our_side().await?;
    // A permit that was given meanwhile is for the next reconciliation, which must come.
    let row = tx.work(&of.id).await?.filter(|row| row.permit == of.claim.permit);
    let events = row.map_or(of.claim.wanted, |row| row.wanted);
    let wanted = tx.wanted_accounts(&of.id).await?;
    let leaving = tx.leaving(&of.id).await?;
    let mut tokens: HashMap<Fingerprint, ProcessorToken> = tx.open_live_tokens(&of.id).await?.into_iter().collect();
    let listed = recognise(of, &mut tx, &rows).await?;
    drop(tx);
    let fingerprints = of.context.store.fingerprints();
    for token in rows.into_iter().filter_map(|r| r.token) {
        tokens.entry(fingerprints.of_processor(&token)).or_insert(token);
    }
    if of.context.layer.settings().unknown_tokens == UnknownPolicy::Adopt {
        refuse_dead_strangers(of, &listed, &tokens).await?;
    }
    let mut items: BTreeMap<ItemId, BTreeSet<Fingerprint>> = BTreeMap::new();
    for account in &wanted {
        items.entry(account.item.clone()).or_default().extend(account.token.clone());
    }
    let wanted = wanted
        .into_iter()
        .map(|w| Wanted { account: w.account, token: w.token, older_generation: w.older_generation })
        .collect();
    Ok(Facts { wanted, listed, items, tokens, events, leaving })
}

/// The list at Layer.
pub(super) async fn list(of: &mut Reconciliation<'_>, layer_id: &LayerId) -> Result<Vec<ListedAccount>, Stop> {
    match pages(of.context, &mut of.claim, layer_id).await? {
        Ok(rows) => Ok(rows),
        Err(error) if error.meaning() == Meaning::NoSuchBusiness => Err(of.unknown_to_layer().await?),
        Err(error) => Err(of.refused(&error).await),
    }
}

/// Every page of a list, or Layer's refusal.
pub(crate) async fn pages(
    context: &Context,
    claim: &mut Claim,
    layer_id: &LayerId,
) -> Result<Result<Vec<ListedAccount>, layer::Error>, Stop> {
    if let Some(list) = context.rehearsal.as_ref().and_then(|rehearsal| rehearsal.list(layer_id)) {
        return Ok(Ok(list));
    }
    let mut list = PagedList::default();
    while list.has_more() {
        // Each is a call of the budget.
        let slot = Slot { call: Call::Layer, paced: false, lease: context.settings.lease };
        budget::wait_for_slot(context, claim, &slot).await?.map_err(Stop::Row)?;
        let span = tracing::info_span!(target: traces::STEP, "list", outcome = Empty);
        let page = context.layer.next_page(layer_id, &mut list);
        if let Err(error) = steps::step(steps::READ_LIST, span, layer::Error::code, page).await {
            return Ok(Err(error));
        }
    }
    Ok(Ok(list.into_rows()))
}

/// Looks the rows up among the tokens and accounts that Rekey knows, and remembers them for people.
pub(super) async fn recognise(
    of: &mut Reconciliation<'_>,
    tx: &mut store::Tx,
    rows: &[ListedAccount],
) -> Result<Vec<Listed>, Stop> {
    let fingerprints = of.context.store.fingerprints();
    let shown = rows.iter().map(|row| Shown {
        token: row.token.as_ref().map(|t| fingerprints.of_processor(t)),
        account: row.account.clone(),
        status: row.status,
        layer_owned: row.layer_owned,
        mask: row.mask.clone(),
        name: row.name.clone(),
    });
    let shown: Vec<Shown> = shown.collect();
    let listed = tx.recognise(&of.id, &shown).await?;
    of.shown = Some(shown);
    Ok(listed)
}

/// Adopting means sending along what is alive; a dead stranger is an operator's question.
async fn refuse_dead_strangers(
    of: &mut Reconciliation<'_>,
    listed: &[Listed],
    tokens: &HashMap<Fingerprint, ProcessorToken>,
) -> Result<(), Stop> {
    let strangers =
        listed.iter().filter(|r| r.ours.is_none() && r.word.is_none() && !r.layer_owned && r.status.is_row());
    let strangers = strangers.filter_map(|r| r.token.as_ref().and_then(|t| Some((t, tokens.get(t)?))));
    let mut dead = Vec::new();
    for (fingerprint, token) in strangers {
        of.wait_for_slot(Call::TokenProbe).await?;
        match of.context.plaid.processor_token_health(token).await {
            Ok(TokenHealth::Alive) => {}
            Ok(TokenHealth::Dead) => dead.push(fingerprint.clone()),
            Err(error) => {
                let refusal = crate::refusals::Refusal::from(&error);
                return Err(Stop::Row(crate::refusals::conclude(of.context, &of.claim, &refusal).await?));
            }
        }
    }
    let hold = Hold::DeadTokens { tokens: dead };
    match hold.objection().tokens.is_empty() || hold.is_permitted(of.claim.permit.as_ref()) {
        true => Ok(()),
        false => Err(Stop::Row(of.held(&hold))),
    }
}
