//! Every metric of Rekey: its name, type, unit, labels with their values, who shows it, and the question it answers.
//!
//! Code names a metric by a constant of this file, so one that isn't here does not compile; the table of deploy/README.md and
//! the descriptions that a scrape shows come from here as well. No label ever holds an id: its values are a closed set.

use crate::accounts::MintRefused;
use crate::budget::Call;
use crate::fault::{Answered, Endpoint, Provider};
use crate::role::Role;
use crate::verdict::State;
use crate::webhook::NotTaken;
use crate::words::words;
use crate::work::{Block, Class, Code, Kind};

words!(
    /// What a scrape says it is.
    Type { Counter => "counter", Gauge => "gauge", Histogram => "histogram" }
);

/// The values that a label can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Values {
    These(&'static [&'static str]),
    /// Closed as well, but known only where it runs.
    From(&'static str),
}

/// One label of a metric.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Label {
    pub name: &'static str,
    pub values: Values,
}

/// The roles whose processes show it.
pub type Roles = &'static [Role];

const EVERY: Roles = Role::ALL_IN_ONE;
const KAFKA: Roles = &[Role::Receiver, Role::Consumer];
const STORE: Roles = &[Role::Consumer, Role::Console];
const RECEIVER: Roles = &[Role::Receiver];
const CONSUMER: Roles = &[Role::Consumer];

/// One metric, as scrapes, dashboards and the table of deploy/README.md know it.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Metric {
    pub name: &'static str,
    #[serde(rename = "type")]
    pub kind: Type,
    pub unit: &'static str,
    pub labels: &'static [Label],
    pub roles: Roles,
    /// Read from the database: each consumer shows the same, so dashboards take the maximum, never the sum.
    pub shared: bool,
    pub question: &'static str,
}

const fn metric(kind: Type, name: &'static str, unit: &'static str, roles: Roles, question: &'static str) -> Metric {
    Metric { name, kind, unit, labels: &[], roles, shared: false, question }
}
const fn counter(name: &'static str, unit: &'static str, roles: Roles, question: &'static str) -> Metric {
    metric(Type::Counter, name, unit, roles, question)
}
const fn gauge(name: &'static str, unit: &'static str, roles: Roles, question: &'static str) -> Metric {
    metric(Type::Gauge, name, unit, roles, question)
}
const fn histogram(name: &'static str, roles: Roles, question: &'static str) -> Metric {
    metric(Type::Histogram, name, "seconds", roles, question)
}
/// A gauge that every consumer reads from the database.
const fn shared(name: &'static str, unit: &'static str, question: &'static str) -> Metric {
    Metric { shared: true, ..gauge(name, unit, CONSUMER, question) }
}

impl Metric {
    const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// What a scrape says about it.
    pub fn help(&self) -> String {
        let shared = if self.shared { " The same from each consumer: take the maximum, not the sum." } else { "" };
        format!("{}{shared}", self.question)
    }

    /// Whether a series with these labels is one of this metric's.
    pub fn admits(&self, labels: &[(&str, &str)]) -> bool {
        let known = |name: &str, value: &str| {
            let label = self.labels.iter().find(|l| l.name == name);
            label.is_some_and(|l| match l.values {
                Values::These(values) => values.contains(&value),
                Values::From(_) => true,
            })
        };
        labels.len() == self.labels.len() && labels.iter().all(|(name, value)| known(name, value))
    }
}

const fn label(name: &'static str, values: &'static [&'static str]) -> Label {
    Label { name, values: Values::These(values) }
}
const fn of_build(name: &'static str) -> Label {
    Label { name, values: Values::From("the build") }
}

const KIND: Label = label("kind", Kind::WORDS);
const CLASS: Label = label("class", Class::WORDS);
const CALL: Label = label("call", Call::WORDS);
const STATE: Label = label("state", State::NOT_GOOD_WORDS);
const PROVIDER: Label = label("provider", Provider::WORDS);
const ENDPOINT: Label = label("endpoint", Endpoint::WORDS);
const TOPIC: Label = Label { name: "topic", values: Values::From("the names in `kafka.topics`") };

/// Several lists as one.
const fn joined<const N: usize>(lists: &[&[&'static str]]) -> [&'static str; N] {
    let (mut all, mut n, mut list) = ([""; N], 0, 0);
    while list < lists.len() {
        let mut word = 0;
        while word < lists[list].len() {
            all[n] = lists[list][word];
            (n, word) = (n + 1, word + 1);
        }
        list += 1;
    }
    all
}

/// Empty for a webhook that was taken.
const REASONS: &[&str] = &joined::<{ 1 + NotTaken::WORDS.len() }>(&[&[""], NotTaken::WORDS]);

/// Codes of the providers' documentation that can block a row.
const THEIRS: &[&str] = &[
    "ADDITION_LIMIT",
    "CREDITS_EXHAUSTED",
    "HTTP_401",
    "HTTP_403",
    "HTTP_429",
    "INSTITUTION_DOWN",
    "INSTITUTION_NOT_RESPONDING",
    "INSTITUTION_RATE_LIMIT",
    "INTERNAL_SERVER_ERROR",
    "INVALID_API_KEYS",
    "INVALID_PRODUCT",
    "PLANNED_MAINTENANCE",
    "TRIAL_CONNECTION_LIMIT",
    "UNAUTHORIZED_ENVIRONMENT",
    "UNAUTHORIZED_ROUTE_ACCESS",
];
/// Why rows are blocked.
const CODES: &[&str] = &joined::<{ Code::WORDS.len() + THEIRS.len() + 1 }>(&[Code::WORDS, THEIRS, &[OTHER]]);
/// Any word that is not one of ours.
pub const OTHER: &str = "other";

/// The label for what blocks a row.
pub fn blocked_code(code: &str) -> &'static str {
    CODES.iter().copied().find(|known| *known == code).unwrap_or(OTHER)
}

macro_rules! registry {
    ($($constant:ident = $metric:expr;)+) => {
        $(pub const $constant: &str = {
            const METRIC: Metric = $metric;
            METRIC.name
        };)+
        /// All of them, in the order in which an operator reads them.
        pub const ALL: &[Metric] = &[$($metric),+];
    };
}

registry! {
    // Are customers' books safe?
    UNCONVERGED_BUSINESSES = shared("rekey_unconverged_businesses", "businesses",
        "How many businesses' books are at risk, and how do they stand? The verdicts that are not good.").by(&[STATE]);
    UNCONVERGED_OLDEST = shared("rekey_unconverged_oldest_seconds", "seconds",
        "For how long has the first of them stood so?").by(&[STATE]);
    UNCONVERGED_ITEMS = shared("rekey_unconverged_items", "items",
        "How many Items lack live tokens, or somebody's act, and how do they stand?").by(&[STATE]);
    UNCONVERGED_ITEMS_OLDEST = shared("rekey_unconverged_items_oldest_seconds", "seconds",
        "For how long has the first of them stood so?").by(&[STATE]);
    REFUSED_MINTS = shared("rekey_refused_mints", "accounts",
        "How many accounts have no token because Plaid refuses to mint it, and why?")
        .by(&[label("reason", MintRefused::WORDS)]);
    CONVERGE = histogram("rekey_converge_seconds", CONSUMER,
        "How long from the first signal of a change until Layer's list shows it?");
    DRIFT = counter("rekey_drift_total", "rows", CONSUMER,
        "How many changes did only the sweep find, because nobody announced them?").by(&[KIND]);
    RECONCILED_OLDEST = shared("rekey_reconciled_oldest_seconds", "seconds",
        "How long ago was the row reconciled that has waited longest? Above the period, the sweep is behind.").by(&[KIND]);
    SWEEP_PERIOD = gauge("rekey_sweep_period_seconds", "seconds", CONSUMER,
        "Within which time does the sweep look at everything, as the limits allow it?");
    SWEEP_PERIOD_SET = gauge("rekey_sweep_period_set_seconds", "seconds", CONSUMER,
        "Within which time is it to? If it takes longer, the limits or the share are too small for so many rows.");
    FOREIGN_GROUPS = gauge("rekey_database_foreign_groups", "groups", CONSUMER,
        "How many other consumer groups work on this database? More than 0: two releases share it.");

    // Webhooks.
    WEBHOOKS = counter("rekey_webhooks_total", "webhooks", RECEIVER,
        "What became of each webhook, and why?")
        .by(&[label("outcome", &["published", "dead_letter", "rejected", "unavailable"]), label("reason", REASONS)]);
    WEBHOOK_SECONDS = histogram("rekey_webhook_seconds", RECEIVER,
        "How long does Plaid wait for the answer, and for which part of it?")
        .by(&[label("phase", &["verify", "publish", "total"])]);
    WEBHOOK_KEYS = gauge("rekey_webhook_keys", "keys", RECEIVER,
        "How many verification keys are known, and are they confirmed?").by(&[label("state", &["fresh", "stale"])]);
    WEBHOOK_KEY_LOOKUPS = counter("rekey_webhook_key_lookups_total", "look-ups", RECEIVER,
        "Does Plaid answer for verification keys?").by(&[label("result", &["found", "absent", "unusable", "failed"])]);
    WEBHOOK_CLOCK_SKEW = gauge("rekey_webhook_clock_skew_seconds", "seconds", RECEIVER,
        "How far is our clock ahead of Plaid's, by the last verified webhook? Five minutes reject everything.");
    CONNECTIONS_EVICTED = counter("rekey_connections_evicted_total", "connections", EVERY,
        "How many idle or slow callers had to make room for others?");

    // Kafka.
    KAFKA_BROKERS_UP = gauge("rekey_kafka_brokers_up", "brokers", KAFKA,
        "How many brokers is the producer connected to? It only connects to those it needs.");
    KAFKA_QUEUE = gauge("rekey_kafka_queue_records", "records", KAFKA,
        "How many records has the producer not sent yet?");
    PRODUCER_IN_FLIGHT = gauge("rekey_producer_in_flight", "records", KAFKA,
        "How many records has Kafka not acknowledged yet?");
    KAFKA_REQUEST = gauge("rekey_kafka_request_seconds", "seconds", KAFKA,
        "How long is a round trip to a broker, on average over the last seconds with any?");
    KAFKA_ERRORS = counter("rekey_kafka_errors_total", "errors", KAFKA,
        "What does librdkafka complain about?")
        .by(&[label("kind", &["all_brokers_down", "connection", "timed_out", "tls", "sasl", "group_authorization",
            "topic_authorization", "group_protocol", "fenced", "fatal", OTHER])]);
    TOPIC_MIN_INSYNC = gauge("rekey_topic_min_insync_replicas", "replicas", KAFKA,
        "On how many replicas is an acknowledged record at least? Below two, one broker can lose webhooks.").by(&[TOPIC]);
    TOPIC_PARTITIONS = gauge("rekey_topic_partitions", "partitions", KAFKA,
        "How many partitions has the topic? More consumers than that take no events in.").by(&[TOPIC]);
    INTAKE_RECORDS = counter("rekey_intake_records_total", "records", CONSUMER,
        "How many events are taken in, and how many can nobody read?")
        .by(&[label("outcome", &["taken", "dead_letter"])]);
    INTAKE_LAG = gauge("rekey_intake_lag_records", "records", CONSUMER,
        "How many events wait on the partitions of this consumer? The sum over consumers is the group's.").by(&[TOPIC]);
    INTAKE_PARTITIONS = gauge("rekey_intake_partitions", "partitions", CONSUMER,
        "How many partitions does this consumer read? If the sum over consumers is less than the topic has, nobody reads the rest.")
        .by(&[TOPIC]);
    INTAKE_GAPS = counter("rekey_intake_gaps_total", "gaps", CONSUMER,
        "How often were events lost before they were read, by retention or by the broker?");
    UNKNOWN_ITEM_EVENTS = counter("rekey_unknown_item_events_total", "events", CONSUMER,
        "How many events are about Items that nobody pushed?");
    DEAD_LETTERS = counter("rekey_dead_letters_total", "records", KAFKA,
        "What could nobody read?").by(&[label("from", &["receiver", "intake"])]);
    DEAD_LETTERS_KEPT = shared("rekey_dead_letters", "records",
        "How many webhooks and records that could not be read has nobody looked at yet?");
    MISSED_WEBHOOKS = shared("rekey_missed_webhooks", "Items",
        "Of how many Items did the last webhook that Plaid says it sent never come? 10 000 means 10 000 or more.");
    WEBHOOKS_ELSEWHERE = shared("rekey_webhooks_elsewhere", "Items",
        "How many Items send their webhooks to another URL than `plaid.webhook_url`? 10 000 means 10 000 or more.");
    CONSENTS_ENDING = shared("rekey_consents_ending", "Items",
        "Of how many Items does the consent end within 30 days? 10 000 means 10 000 or more.");
    OUTBOX = shared("rekey_outbox_records", "records",
        "How many outcomes wait to be published?");

    // The work queue.
    DUE_ROWS = shared("rekey_due_rows", "rows",
        "How much work is due, of which urgency? 10 000 means 10 000 or more.").by(&[KIND, CLASS]);
    DUE_OLDEST = shared("rekey_due_oldest_seconds", "seconds",
        "How long has the oldest of it been due?").by(&[KIND, CLASS]);
    CLAIMABLE_OLDEST = shared("rekey_claimable_oldest_seconds", "seconds",
        "How long has the oldest row waited that a worker could take now? More consumers help only with these: not with \
         rows of a paused provider, nor when the provider's budget is spent.").by(&[KIND]);
    BLOCKED_ROWS = shared("rekey_blocked_rows", "rows",
        "What does not go on, and why? Parked and held rows wait for a person.")
        .by(&[KIND, label("by", Block::WORDS), label("code", CODES)]);
    RECONCILE = histogram("rekey_reconcile_seconds", CONSUMER,
        "How long does a reconciliation take?").by(&[KIND]);
    LEASES_LOST = counter("rekey_leases_lost_total", "leases", CONSUMER,
        "How often did a worker lose its row in the middle of a reconciliation?").by(&[KIND]);

    // Tokens and lists.
    TOKEN_CHANGES = counter("rekey_token_changes_total", "tokens", CONSUMER,
        "How many access tokens changed, and who told?").by(&[label("source", &["push", "lookup"])]);
    TOKEN_LOOKUPS = counter("rekey_token_lookups_total", "look-ups", CONSUMER,
        "Does the platform's database answer?").by(&[label("result", &["found", "absent", "failed"])]);
    MINTS = counter("rekey_mints_total", "tokens", CONSUMER,
        "How many processor tokens were minted?").by(&[label("result", &["live", "orphan", "failed"])]);
    ORPHANED_TOKENS = counter("rekey_orphaned_tokens_total", "tokens", CONSUMER,
        "How many mints were lost?");
    ORPHANS = shared("rekey_orphans", "tokens",
        "How many processor tokens may Plaid hold that are in no list?");
    PUTS = counter("rekey_puts_total", "lists", CONSUMER,
        "How many lists were sent to Layer, and how many need not be?")
        .by(&[label("result", &["accepted", "resent", "refused", "failed", "not_needed"])]);
    THIRD_LISTS = counter("rekey_third_lists_total", "lists", CONSUMER,
        "How often did Layer show neither the old list nor ours after a PUT?").by(&[label("foreign", &["yes", "no"])]);
    LAYER_OWNED_CHANGED = counter("rekey_layer_owned_changed_total", "lists", CONSUMER,
        "How often did an account that Layer connected itself vanish after our PUT?");

    // The providers.
    PROVIDER_CALLS = counter("rekey_provider_calls_total", "calls", KAFKA,
        "What did the providers answer?").by(&[PROVIDER, ENDPOINT, label("result", Answered::WORDS)]);
    PROVIDER_CALL = histogram("rekey_provider_call_seconds", KAFKA,
        "How long do the providers take, the rest that their rate headers ask for included?").by(&[PROVIDER, ENDPOINT]);
    PROVIDER_PAUSED = shared("rekey_provider_paused", "0 or 1",
        "Does a provider's work stand still, because it refuses everybody or because an operator said so?").by(&[PROVIDER]);
    CERTIFICATE_EXPIRES = gauge("rekey_certificate_expires_seconds", "seconds", KAFKA,
        "How long is the certificate that the provider showed last still good?").by(&[label("peer", Provider::WORDS)]);
    SLOW_DOWNS = counter("rekey_slow_downs_total", "answers", CONSUMER,
        "How often did a provider answer 429 although the budget allowed the call?").by(&[CALL]);
    BUDGET_RATE = shared("rekey_budget_calls_per_minute", "calls a minute",
        "What may Rekey use of the limit now, after what 429s took away?").by(&[CALL]);
    BUDGET_BOOKED = shared("rekey_budget_booked_ratio", "ratio",
        "How far ahead is the budget booked, as a part of how far a person may book? 0: a call leaves at once; 1: even \
         persons wait.").by(&[CALL]);
    BUDGET_POSTPONED = counter("rekey_budget_postponed_total", "reconciliations", CONSUMER,
        "How many reconciliations ended early for want of budget?").by(&[CALL]);

    // The process.
    BUILD_INFO = gauge("rekey_build_info", "1", EVERY,
        "Which release runs where?").by(&[of_build("version"), of_build("revision")]);
    READY = gauge("rekey_ready", "0 or 1", EVERY,
        "Does it say that it is ready?");
    STORE_SECONDS = histogram("rekey_store_seconds", STORE,
        "How long does the database take? `begin` includes the wait for a connection and, on SQLite, for the turn to write.")
        .by(&[label("operation", &["begin", "statement", "commit", "rollback"])]);
}

/// The metric of that name.
pub fn named(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|m| m.name == name)
}

/// The table of deploy/README.md.
pub fn markdown() -> String {
    let mut table = String::from("| metric | type, unit | labels | question |\n|---|---|---|---|\n");
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(in_words).collect();
        let shared = if metric.shared { " ⊕" } else { "" };
        let Metric { name, kind, unit, question, .. } = metric;
        table.push_str(&format!("| `{name}`{shared} | {kind}, {unit} | {} | {question} |\n", labels.join("; ")));
    }
    table
}

fn in_words(label: &Label) -> String {
    let name = label.name;
    match label.values {
        Values::These(values) if values.len() > 7 => format!("`{name}`: {} words", values.len()),
        Values::These(values) => format!("`{name}`: {}", values.join(", ")),
        Values::From(place) => format!("`{name}`: {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::Hold;

    #[test]
    fn readme_shows_this_registry() {
        let readme = include_str!("../../../deploy/README.md");
        let table = readme.split_once("<!-- metrics -->\n").and_then(|(_, rest)| rest.split_once("<!-- /metrics -->"));
        assert_eq!(table.map(|(table, _)| table), Some(markdown().as_str()), "paste what `rekey metrics` prints");
    }

    #[test]
    fn names_follow_prometheus() {
        for (n, metric) in ALL.iter().enumerate() {
            let Metric { name, kind, unit, .. } = metric;
            assert!(ALL[..n].iter().all(|m| m.name != *name), "{name} stands there twice");
            assert!(name.starts_with("rekey_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Type::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), *unit == "seconds", "{name}");
            assert!(metric.question.contains('?') && !metric.question.contains(['\n', '|', '"']), "{name}");
            let series: usize = metric.labels.iter().map(in_closed_set).product();
            assert!(series <= 500, "{name} has {series} series");
        }
    }

    fn in_closed_set(label: &Label) -> usize {
        match label.values {
            Values::These(values) => values.len(),
            Values::From(_) => 5,
        }
    }

    #[test]
    fn a_label_that_is_no_word_of_ours_is_not_admitted() {
        let drift = named(DRIFT).unwrap();
        let table = [
            (&[("kind", "item")][..], true),
            (&[("kind", "item-4711")], false),
            (&[("item", "item")], false),
            (&[], false),
            (&[("kind", "item"), ("item", "i")], false),
        ];
        for (labels, admitted) in table {
            assert_eq!(drift.admits(labels), admitted, "{labels:?}");
        }
        assert!(named(TOPIC_PARTITIONS).unwrap().admits(&[("topic", "plaid.item-events.v1")]));
        assert!(named("rekey_nothing").is_none());
    }

    #[test]
    fn codes_of_strangers_become_one_word() {
        assert_eq!(blocked_code("INVALID_API_KEYS"), "INVALID_API_KEYS");
        assert_eq!(blocked_code("A_CODE_OF_2031"), "other");
        let holds = [
            Hold::Shrink { without_proof: vec![] },
            Hold::Empty { accounts: vec![], discarded: vec![] },
            Hold::UnknownTokens { tokens: vec![] },
            Hold::Hidden { count: 1 },
            Hold::ForeignWriter { strangers: vec![] },
            Hold::Operator { why: String::new() },
        ];
        for hold in holds {
            assert_eq!(blocked_code(hold.code().as_str()), hold.code().as_str());
        }
    }

    #[test]
    fn help_says_how_to_add_up() {
        assert_eq!(named(ORPHANS).map(|m| m.help().contains("maximum")), Some(true));
        assert_eq!(named(PUTS).map(|m| m.help().contains("maximum")), Some(false));
    }
}
