use super::*;
use domain::accounts::{MintRefused, Outside, Settled, Traits};

const NOW: Millis = Millis(1_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn account(id: &str) -> AccountId {
    AccountId::parse(id.to_owned()).unwrap()
}
fn business(id: &str) -> BusinessId {
    BusinessId::parse(id.to_owned()).unwrap()
}
fn item() -> ItemRow {
    ItemRow {
        id: ItemId::parse("item".to_owned()).unwrap(),
        state: ItemState::Active,
        cause: None,
        state_why: None,
        state_since: Millis(0),
        business: Some(business("acme")),
        only_listed: false,
        generation: 2,
        replaces: None,
        doubted_at: None,
        read_at: None,
    }
}
/// Known, in acme.
fn known(id: &str) -> AccountRow {
    AccountRow {
        id: account(id),
        item: item().id,
        state: AccountState::Active,
        business: Some(business("acme")),
        moving_from: None,
        missing_since: None,
        proof: None,
        outside: None,
        traits: Traits::default(),
        mint_fault: None,
    }
}
fn change(id: &str, of: &str, change: Change) -> AccountChange {
    let settled = Settled { id: account(id), traits: Traits::default(), change };
    AccountChange { id: account(id), business: (of != "-").then(|| business(of)), settled }
}
fn joined(id: &str, of: &str) -> AccountChange {
    change(id, of, Change::Joined { business: business(of) })
}
fn hint(kind: HintKind, of: Option<&str>, said: Duration) -> Hint {
    Hint { account: of.map(account), kind, said_at: NOW.minus(said), detail: None, reported: false }
}
fn refusal(code: &str, generation: i64, tries: u32, again_at: Millis) -> MintFault {
    MintFault { refused: MintRefused::Other, code: code.into(), why: "no".into(), generation, tries, again_at }
}

/// One reconciliation of an Item with the accounts `a` and `b` in acme, whose tokens are live: nothing new.
struct Scene {
    item: ItemRow,
    found: Found,
    class: Class,
    known: Vec<AccountRow>,
    live: Vec<(&'static str, i64)>,
    hints: Vec<Hint>,
    lists: Vec<List>,
    blocked: Option<Blocked>,
    observes: bool,
    can_look_up: bool,
}

/// What makes a scene another one.
type Tweak = fn(&mut Scene);

fn quiet() -> Scene {
    Scene {
        item: item(),
        found: Found {
            state: Some(NewState::active()),
            read: true,
            accounts: vec![change("a", "acme", Change::Present), change("b", "acme", Change::Present)],
            ..Found::default()
        },
        class: Class::Rotation,
        known: vec![known("a"), known("b")],
        live: vec![("a", 2), ("b", 2)],
        hints: Vec::new(),
        lists: vec![List { business: business("acme"), is_at_layer: true, is_behind: false }],
        blocked: None,
        observes: false,
        can_look_up: false,
    }
}

impl Scene {
    fn end(&self) -> End {
        let facts = Facts {
            item: &self.item,
            found: &self.found,
            class: self.class,
            known: self.known.clone(),
            live: self.live.iter().map(|(id, generation)| (account(id), *generation)).collect(),
            hints: self.hints.clone(),
            lists: self.lists.clone(),
            replaced: vec![business("old")],
            blocked: self.blocked.clone(),
            now: NOW,
        };
        let blocked = Blocked::new(Block::Backoff, "awaiting_token", "waits");
        End::of(
            &facts,
            &Rules {
                observes: self.observes,
                can_look_up: self.can_look_up,
                gone_after: HOUR,
                debounce: Box::new(
                    |class| if class == Class::Person { Duration::ZERO } else { Duration::from_secs(2) },
                ),
                awaiting_token_poll: Duration::from_secs(30),
                done: Finish::done(HOUR * 20, Class::Sweep),
                awaiting: Finish::blocked(Duration::from_secs(90), Class::Retry, blocked),
                refused: Box::new(|tries| Duration::from_secs(60 * u64::from(tries))),
            },
        )
    }
}

/// Everything that the end says, in short: told news, due businesses (`!`: their truth changed), the wait.
fn said(end: &End) -> String {
    let news = end.reports.iter().map(|(report, businesses)| {
        let of: Vec<&str> = businesses.iter().map(BusinessId::as_str).collect();
        let what = match report {
            Report::State { from, to, .. } => format!("{from}>{to}"),
            Report::Account { account, change, .. } => format!("{account} {change}"),
            Report::NotMinted { account, fault } => format!("{account} not minted {}", fault.code),
            Report::Ends { kind, .. } => kind.to_string(),
            Report::WouldMint(accounts) => format!("would mint {}", accounts.len()),
            Report::Parked(blocked) => format!("parked {}", blocked.code),
            Report::Replaced(old) => format!("replaces {old}"),
        };
        format!("{what} @{}", of.join("+"))
    });
    let due = end.marks.iter().map(|m| {
        let changed = if m.changed { "!" } else { "" };
        format!("due {}{changed} {} {}s", m.business, m.class, m.debounce.as_secs())
    });
    let wait = format!("again {}s", end.finish.again_after.as_secs());
    news.chain(due).chain([wait]).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_is_told_and_who_is_due() {
    let table: &[(&str, Tweak, &str)] = &[
        ("nothing new", |_| {}, "again 72000s"),
        ("its tokens were minted", |s| s.found.minted = vec![account("a")], "due acme! rotation 2s; again 72000s"),
        (
            "a person waits: no debounce",
            |s| (s.found.minted, s.class) = (vec![account("a")], Class::Person),
            "due acme! person 0s; again 72000s",
        ),
        (
            "a first link is no rotation, though one came with it",
            |s| (s.found.minted, s.item.generation, s.class) = (vec![account("a")], 1, Class::Sweep),
            "due acme! new_account 2s; again 72000s",
        ),
        (
            "minted by one that died: the list lacks it, and nothing else changed",
            |s| s.lists[0].is_behind = true,
            "due acme rotation 2s; again 72000s",
        ),
        (
            "an account joins",
            |s| s.found.accounts.push(joined("c", "globex")),
            "c joined @globex; due globex! rotation 2s; again 72000s",
        ),
        (
            "an account moves: both lists are due",
            |s| s.found.accounts[0] = change("a", "globex", Change::Moved { to: business("globex") }),
            "a moved @acme+globex; due acme! rotation 2s; due globex! rotation 2s; again 72000s",
        ),
        (
            "an account that takes no part appears: nobody is told",
            |s| s.found.accounts.push(change("c", "-", Change::Outside(Outside::Ineligible))),
            "again 72000s",
        ),
        (
            "an account is missing for the first time",
            |s| {
                let again_at = NOW.plus(HOUR);
                s.found.accounts[0] = change("a", "acme", Change::Missing { since: NOW, again_at });
            },
            "a missing @acme; due acme! rotation 2s; again 3600s",
        ),
        (
            "an account is gone, and was before",
            |s| {
                s.known[0].state = AccountState::Closed;
                let gone = Change::Gone { state: AccountState::Closed, proof: Proof::TwoReads };
                s.found.accounts[0] = change("a", "acme", gone);
            },
            "again 72000s",
        ),
        (
            "the user must log in",
            |s| {
                s.found = Found { state: Some(NewState::user_must_act("ITEM_LOGIN_REQUIRED")), ..Found::default() };
            },
            "active>login_required @acme; due acme! rotation 2s; again 72000s",
        ),
        (
            "a mint is refused: every business hears of it once",
            |s| s.found.faults = vec![fault("b", "ODD")],
            "b not minted ODD @acme; again 60s",
        ),
        (
            "it is refused again, alike",
            |s| {
                s.known[1].mint_fault = Some(refusal("ODD", 2, 1, NOW));
                (s.found.faults, s.live) = (vec![fault("b", "ODD")], vec![("a", 2)]);
            },
            "again 120s",
        ),
        (
            "it is refused again, for another reason",
            |s| {
                s.known[1].mint_fault = Some(refusal("ODD", 2, 7, NOW));
                (s.found.faults, s.live) = (vec![fault("b", "NEW")], vec![("a", 2)]);
            },
            "b not minted NEW @acme; again 60s",
        ),
        (
            "its time to be asked for has not come",
            |s| {
                s.known[1].mint_fault = Some(refusal("ODD", 2, 3, NOW.plus(HOUR)));
                s.live = vec![("a", 2)];
            },
            "again 3600s",
        ),
        (
            "its time has come, and it could not be asked for",
            |s| {
                s.known[1].mint_fault = Some(refusal("ODD", 2, 3, NOW));
                s.live = vec![("a", 2)];
            },
            "again 180s",
        ),
        (
            "a refusal of an earlier generation is not waited for",
            |s| {
                s.known[1].mint_fault = Some(refusal("ODD", 1, 3, NOW));
                s.live = vec![("a", 2)];
            },
            "again 72000s",
        ),
        (
            "the end of access is announced",
            |s| s.hints = vec![hint(HintKind::PendingDisconnect, None, HOUR)],
            "pending_disconnect @acme; again 72000s",
        ),
        (
            "and was told before",
            |s| s.hints = vec![Hint { reported: true, ..hint(HintKind::PendingDisconnect, None, HOUR) }],
            "again 72000s",
        ),
        (
            "a revocation that Plaid's list does not show yet",
            |s| s.hints = vec![hint(HintKind::AccountRevoked, Some("a"), HOUR / 2)],
            "again 3600s",
        ),
        (
            "a revocation that Plaid's list still denies an hour later",
            |s| s.hints = vec![hint(HintKind::AccountRevoked, Some("a"), HOUR)],
            "again 72000s",
        ),
        ("observe mode", |s| s.found.would_mint = vec![account("a")], "would mint 1 @acme; again 72000s"),
        ("it is parked", |s| s.found.finish = Some(parked("ODD")), "parked ODD @acme; again 5s"),
        (
            "it was parked for this already",
            |s| (s.found.finish, s.blocked) = (Some(parked("ODD")), parked("ODD").blocked),
            "again 5s",
        ),
        (
            "the new token is awaited, and nobody can be asked",
            |s| {
                s.found = Found {
                    state: Some(NewState::of(ItemState::AwaitingToken, Cause::TokenUnknown)),
                    ..Found::default()
                }
            },
            "active>awaiting_token @acme; due acme! rotation 2s; again 72000s",
        ),
        (
            "the new token is awaited from the platform's database",
            |s| {
                s.can_look_up = true;
                s.found = Found {
                    state: Some(NewState::of(ItemState::AwaitingToken, Cause::TokenUnknown)),
                    ..Found::default()
                };
            },
            "active>awaiting_token @acme; due acme! rotation 2s; again 30s",
        ),
    ];
    for (name, tweak, expected) in table {
        let mut scene = quiet();
        tweak(&mut scene);
        assert_eq!(said(&scene.end()), *expected, "{name}");
    }
}

fn fault(id: &str, code: &str) -> Fault {
    Fault { account: account(id), refused: MintRefused::Other, code: code.into(), why: "no".into() }
}
fn parked(code: &str) -> Finish {
    let blocked = Blocked::new(Block::Parked, code, "no");
    Finish::blocked(Duration::from_secs(5), Class::Sweep, blocked)
}

/// `a` has another id now, `c`.
fn renumbered() -> Scene {
    let mut scene = quiet();
    let gone = Change::Gone { state: AccountState::Closed, proof: Proof::Renumbered };
    scene.found.accounts[0] = change("a", "acme", gone);
    scene.found.accounts.push(joined("c", "acme"));
    scene
}

#[test]
fn i8_a_renumbered_account_leaves_when_its_heir_has_a_token() {
    let mut scene = renumbered();
    let written = |end: &End| end.accounts.iter().map(|a| a.id.to_string()).collect::<Vec<_>>();
    assert_eq!(written(&scene.end()), ["b"], "both are left as they were");
    assert_eq!(said(&scene.end()), "again 72000s");
    scene.live.push(("c", 2));
    assert_eq!(written(&scene.end()), ["a", "b", "c"]);
    // The one whose token is missing is no newcomer: it holds nobody back.
    scene.live = vec![("a", 2), ("c", 2)];
    assert_eq!(written(&scene.end()), ["a", "b", "c"]);
}

#[test]
fn a_newcomer_keeps_what_was_said_of_the_old_id() {
    let inherits = |tweak: Tweak| {
        let mut scene = renumbered();
        scene.live.push(("c", 2));
        tweak(&mut scene);
        scene.end().inherits
    };
    assert_eq!(inherits(|_| {}), [], "the Item's business says so already");
    assert_eq!(inherits(|s| s.item.only_listed = true), [(account("c"), business("acme"))]);
    assert_eq!(inherits(|s| s.item.business = Some(business("globex"))), [(account("c"), business("acme"))]);
    let known_before = inherits(|s| {
        s.item.only_listed = true;
        s.known.push(known("c"));
    });
    assert_eq!(known_before, []);
}

#[test]
fn a_replaced_item_leaves_with_the_last_token_of_the_new_one() {
    let table: &[(&str, Tweak, bool)] = &[
        ("complete", |_| {}, true),
        ("a token is missing", |s| s.live = vec![("a", 2)], false),
        ("a token is of an earlier generation", |s| s.live = vec![("a", 2), ("b", 1)], false),
        ("a mint was refused", |s| s.found.faults = vec![fault("b", "ODD")], false),
        ("no account was read", |s| s.found.accounts.clear(), false),
        ("cut short", |s| s.found.finish = Some(parked("ODD")), false),
        ("the user must log in", |s| s.found.state = Some(NewState::user_must_act("X")), false),
        ("observe mode", |s| s.observes = true, false),
    ];
    for (name, tweak, leaves) in table {
        let mut scene = quiet();
        scene.item.replaces = Some(ItemId::parse("before".to_owned()).unwrap());
        tweak(&mut scene);
        let end = scene.end();
        assert_eq!(end.retires.is_some(), *leaves, "{name}");
        let is_due = end.marks.iter().any(|m| m.business == business("old") && m.changed);
        assert_eq!(is_due, *leaves, "{name}: the list that it leaves");
    }
}

#[test]
fn a_refusal_is_forgotten_with_the_token_that_it_refused() {
    let mut scene = quiet();
    scene.known[0].mint_fault = Some(refusal("ODD", 2, 3, NOW));
    assert_eq!(scene.end().mint_faults, [(account("a"), None)], "minted by one that died before it could say so");
    scene.live = vec![("b", 2)];
    assert_eq!(scene.end().mint_faults, [], "still refused, and not asked for this time");
    assert!(scene.end().finish.suspicious);
    scene.found.adopted = vec![account("a")];
    assert_eq!(scene.end().mint_faults, [(account("a"), None)]);
    assert!(!scene.end().finish.suspicious);
    scene.found.suspicious = true;
    assert!(scene.end().finish.suspicious);
}

#[test]
fn an_account_of_a_business_without_a_list_moves_at_once() {
    let mut scene = quiet();
    scene.found.accounts[0] = change("a", "globex", Change::Moved { to: business("globex") });
    let from = |scene: &Scene| scene.end().accounts[0].moving_from.clone();
    assert_eq!(from(&scene), Some(business("acme")));
    scene.lists[0].is_at_layer = false;
    assert_eq!(from(&scene), None);
}

#[test]
fn the_first_proof_is_kept_and_an_account_that_is_back_has_none() {
    let mut scene = quiet();
    let gone = || Change::Gone { state: AccountState::Closed, proof: Proof::TwoReads };
    scene.found.accounts[0] = change("a", "acme", gone());
    assert_eq!(scene.end().accounts[0].proof, Some(Proof::TwoReads));
    (scene.known[0].state, scene.known[0].proof) = (AccountState::Closed, Some(Proof::Renumbered));
    assert_eq!(scene.end().accounts[0].proof, Some(Proof::Renumbered));
    scene.found.accounts[0] = joined("a", "acme");
    let back = &scene.end().accounts[0];
    assert_eq!((back.state, back.proof), (AccountState::Active, None));
}
