//! The truth: what Plaid, Layer and the platform hold.

use crate::faults::Faults;
use crate::oracle::Counts;
use crate::signing::{Signer, uuid};
use crate::switches::Switches;
use crate::{Error, Scenario, Settings};
use rand::SeedableRng;
use rand::rngs::StdRng;
use secrecy::ExposeSecret;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// The client ids that the fakes accept; the secrets are made at run time.
pub const PLAID_CLIENT_ID: &str = "sandbox-client";
/// The `client_id` that the fake Layer demands.
pub const LAYER_CLIENT_ID: &str = "sandbox-layer-client";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemStatus {
    Good,
    LoginRequired,
    /// The user withdrew consent.
    Revoked,
    Removed,
}

#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) subtype: String,
    pub(crate) mask: String,
    pub(crate) name: String,
    pub(crate) open: bool,
    /// The business the platform means it for; None: it shall take no part.
    pub(crate) business: Option<String>,
    /// Plaid can't hand it to this processor.
    pub(crate) unsupported: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) business: String,
    pub(crate) access_token: String,
    pub(crate) generation: u32,
    pub(crate) status: ItemStatus,
    pub(crate) accounts: Vec<Account>,
    pub(crate) webhook_url: Option<String>,
    /// When the last one was sent, and its code.
    pub(crate) last_webhook: Option<(jiff::Timestamp, String)>,
    pub(crate) consent_until: Option<jiff::Timestamp>,
    /// The platform took it off its books; Rekey was told.
    pub(crate) offboarded: bool,
    /// The platform chose businesses for its accounts, at some time: a push that no longer does has to take that back.
    pub(crate) assigned: bool,
    /// Rekey took a push of it: from then on a new token is all that it is told.
    pub(crate) pushed: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Minted {
    pub(crate) item: String,
    pub(crate) account: String,
    pub(crate) access_token: String,
    pub(crate) dead: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) account: String,
    /// None: connected by Layer's own Plaid integration.
    pub(crate) token: Option<String>,
    pub(crate) archived: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct LayerBusiness {
    pub(crate) id: String,
    pub(crate) external_id: String,
    pub(crate) phone: Option<String>,
    pub(crate) archived: bool,
    pub(crate) rows: Vec<Row>,
    /// Tokens that a caller was shown last.
    pub(crate) last_shown: BTreeSet<String>,
    /// A list was refused for one of its tokens at some time.
    pub(crate) refused: bool,
    /// What the list shows instead, until then.
    pub(crate) lagging: Option<(Instant, Vec<Row>)>,
}

impl LayerBusiness {
    /// The rows that a caller is shown.
    pub(crate) fn shown(&self) -> &[Row] {
        match &self.lagging {
            Some((until, rows)) if Instant::now() < *until => rows,
            _ => &self.rows,
        }
    }
}

pub(crate) struct World {
    pub(crate) rng: StdRng,
    pub(crate) plaid_secret: String,
    pub(crate) layer_secret: String,
    pub(crate) webhook_url: Option<String>,
    pub(crate) switches: Switches,
    pub(crate) faults: Faults,
    pub(crate) signers: Vec<Signer>,
    pub(crate) items: BTreeMap<String, Item>,
    pub(crate) minted: HashMap<String, Minted>,
    pub(crate) layer: BTreeMap<String, LayerBusiness>,
    pub(crate) bearers: HashSet<String>,
    /// Names of businesses that the platform uses, whether Layer has them or not.
    pub(crate) businesses: Vec<String>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
    /// Calls beyond a limit, by the limit.
    pub(crate) over_limits: BTreeMap<String, u64>,
    /// Calls by endpoint, in order: what for and when.
    pub(crate) calls: VecDeque<Call>,
    pub(crate) deliveries: Vec<(String, u16)>,
    /// Webhooks that were answered 200.
    pub(crate) accepted: Vec<Vec<u8>>,
    /// Businesses whose list a PUT changed, and how often.
    pub(crate) changed: BTreeMap<String, u64>,
    /// Calls that were made to wait, in order.
    pub(crate) hanging: Vec<String>,
    /// Every token that was ever given out.
    pub(crate) secrets: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) endpoint: String,
    pub(crate) about: String,
    pub(crate) at: Instant,
}

/// Calls that are remembered; a long run must not grow without end.
const CALLS: usize = 200_000;

impl World {
    pub(crate) fn new(settings: &Settings, scenario: &Scenario) -> Self {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let signers = vec![Signer::new(&mut rng)];
        let mut faults = Faults::default();
        scenario.fault.iter().cloned().for_each(|f| faults.push(f));
        Self {
            rng,
            plaid_secret: settings.plaid_secret.expose_secret().to_owned(),
            layer_secret: settings.layer_secret.expose_secret().to_owned(),
            webhook_url: Some(settings.webhook_url.clone()).filter(|url| !url.is_empty()),
            switches: scenario.switches.clone(),
            faults,
            signers,
            items: BTreeMap::new(),
            minted: HashMap::new(),
            layer: BTreeMap::new(),
            bearers: HashSet::new(),
            businesses: Vec::new(),
            counts: Counts::default(),
            violations: Vec::new(),
            over_limits: BTreeMap::new(),
            calls: VecDeque::new(),
            deliveries: Vec::new(),
            accepted: Vec::new(),
            changed: BTreeMap::new(),
            hanging: Vec::new(),
            secrets: Vec::new(),
        }
    }

    /// A new token of this kind. All are remembered, so that a search for leaks knows what to look for.
    pub(crate) fn secret(&mut self, kind: &str) -> String {
        let secret = format!("{kind}-{}", self.uuid());
        self.secrets.push(secret.clone());
        secret
    }

    pub(crate) fn uuid(&mut self) -> String {
        uuid(&mut self.rng)
    }

    /// An id of the form Plaid uses: opaque letters and digits.
    pub(crate) fn opaque(&mut self, prefix: &str) -> String {
        let hex = self.uuid().replace('-', "");
        format!("{prefix}{}", &hex[..20])
    }

    pub(crate) fn called(&mut self, endpoint: &str, about: &str) {
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(Call { endpoint: endpoint.into(), about: about.into(), at: Instant::now() });
    }

    /// Whether the last call is one more of its kind within `window` than allowed; 0 allows all.
    pub(crate) fn over(&mut self, allowed: u32, window: Duration, is_one: impl Fn(&Call) -> bool) -> bool {
        let recent = self.calls.iter().rev().take_while(|c| c.at.elapsed() < window);
        let over = allowed > 0 && recent.filter(|c| is_one(c)).count() > allowed as usize;
        if over && let Some(call) = self.calls.back() {
            let limit = format!("{}, {allowed} in {} s", call.endpoint, window.as_secs());
            *self.over_limits.entry(limit).or_default() += 1;
        }
        over
    }

    pub(crate) fn item(&mut self, id: &str) -> Result<&mut Item, Error> {
        self.items.get_mut(id).ok_or_else(|| Error::Unknown { what: "Item", id: id.into() })
    }

    pub(crate) fn item_by_token(&self, token: &str) -> Option<&Item> {
        self.items.values().find(|i| i.access_token == token)
    }

    pub(crate) fn account(&mut self, id: &str) -> Result<(&str, &mut Account), Error> {
        self.items
            .values_mut()
            .find_map(|i| i.accounts.iter_mut().find(|a| a.id == id).map(|a| (i.id.as_str(), a)))
            .ok_or_else(|| Error::Unknown { what: "account", id: id.into() })
    }

    /// Whether Layer could read the account with this token.
    pub(crate) fn is_alive(&self, token: &str) -> bool {
        let Some(minted) = self.minted.get(token).filter(|m| !m.dead) else { return false };
        // Of an Item of somebody else, which this world knows nothing about.
        let Some(item) = self.items.get(&minted.item) else { return true };
        let rotated = item.access_token != minted.access_token;
        let open = item.accounts.iter().any(|a| a.id == minted.account && a.open);
        matches!(item.status, ItemStatus::Good | ItemStatus::LoginRequired)
            && open
            && !(rotated && self.switches.rotation_kills_processor_tokens)
    }

    /// Gives it an id of Layer's, which is returned.
    pub(crate) fn add_to_layer(&mut self, business: LayerBusiness) -> String {
        let id = self.uuid();
        self.layer.insert(id.clone(), LayerBusiness { id: id.clone(), ..business });
        id
    }

    pub(crate) fn layer_by_external(&mut self, external_id: &str) -> Option<&mut LayerBusiness> {
        self.layer.values_mut().find(|b| b.external_id == external_id)
    }

    pub(crate) fn business(&mut self, external_id: &str) -> Result<&mut LayerBusiness, Error> {
        let unknown = || Error::Unknown { what: "business", id: external_id.into() };
        self.layer_by_external(external_id).ok_or_else(unknown)
    }

    /// Accounts that belong into a list, by the platform's word and Plaid's state, with the business whose list it is.
    pub(crate) fn truth(&self) -> impl Iterator<Item = (&str, &Item, &Account)> {
        self.items
            .values()
            .filter(|i| !i.offboarded && matches!(i.status, ItemStatus::Good | ItemStatus::LoginRequired))
            .flat_map(|i| i.accounts.iter().map(move |a| (i, a)))
            .filter(|(_, a)| a.open && !a.unsupported && matches!(a.kind.as_str(), "depository" | "credit"))
            .filter_map(|(i, a)| Some((a.business.as_deref()?, i, a)))
    }

    pub(crate) fn truth_of(&self, business: &str) -> Vec<(&Item, &Account)> {
        self.truth().filter(|(b, ..)| *b == business).map(|(_, i, a)| (i, a)).collect()
    }
}
