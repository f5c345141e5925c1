use super::*;

fn account(n: usize) -> AccountFacts {
    AccountFacts {
        id: AccountId::parse(format!("a{n}")).unwrap(),
        business: Some(acme()),
        moving_from: None,
        missing: false,
        token: Some((token(n), 2)),
        refusal: None,
    }
}
fn token(n: usize) -> Fingerprint {
    Fingerprint::from_stored(format!("f{n}"))
}
fn acme() -> BusinessId {
    BusinessId::parse("acme").unwrap()
}
fn item(accounts: usize) -> ItemFacts {
    ItemFacts {
        id: ItemId::parse("item").unwrap(),
        state: ItemState::Active,
        generation: 2,
        business: Some(acme()),
        doubted: false,
        work: WorkFacts::default(),
        accounts: (0..accounts).map(account).collect(),
        left_out: Vec::new(),
        was_read: true,
    }
}
/// A business of one Item with so many accounts, all of them right.
fn right(accounts: usize) -> BusinessFacts {
    BusinessFacts {
        id: acme(),
        items: vec![item(accounts)],
        work: WorkFacts::default(),
        was_listed: true,
        read_back: true,
        accepted: (0..accounts).map(token).collect(),
        archived: BTreeSet::new(),
    }
}
fn blocked(by: Block) -> WorkFacts {
    let blocked = Blocked::new(by, "code", "because");
    WorkFacts { blocked: Some(blocked), ..WorkFacts::default() }
}
fn left_out(item: &mut ItemFacts, outside: Outside) {
    item.left_out = vec![(AccountId::parse("left").unwrap(), outside)];
}
fn refusal() -> Option<MintRefusal> {
    Some(MintRefusal { code: "PRODUCTS_NOT_SUPPORTED".into(), generation: 2, again_at: Millis(7) })
}
fn older(n: usize) -> Option<(Fingerprint, i64)> {
    Some((token(n), 1))
}

#[test]
fn i11_what_is_so_of_a_business() {
    type Change = fn(&mut BusinessFacts);
    let table: &[(&str, Change, State, Actor)] = &[
        ("all right", |_| {}, State::Converged, Actor::Nobody),
        ("never read back", |b| b.read_back = false, State::Unverified, Actor::Rekey),
        ("an event waits", |b| b.work.signalled = true, State::Converging, Actor::Rekey),
        ("its list failed", |b| b.work = blocked(Block::Backoff), State::Converging, Actor::Rekey),
        ("its provider paused, nothing changed", |b| b.work = blocked(Block::Pause), State::Converged, Actor::Nobody),
        ("held", |b| b.work = blocked(Block::Hold), State::Held, Actor::Operator),
        ("parked", |b| b.work = blocked(Block::Parked), State::Parked, Actor::Operator),
        ("never listed", |b| b.was_listed = false, State::Converging, Actor::Rekey),
        (
            "one mint of five refused: partly",
            |b| (b.items[0].accounts[4].refusal, b.items[0].accounts[4].token) = (refusal(), older(4)),
            State::Partly,
            Actor::Rekey,
        ),
        (
            "a refusal of an earlier generation is past",
            |b| {
                b.items[0].accounts[4].refusal = refusal().map(|r| MintRefusal { generation: 1, ..r });
                b.items[0].accounts[4].token = older(4);
            },
            State::Converging,
            Actor::Rekey,
        ),
        (
            "every mint refused",
            |b| b.items[0].accounts.iter_mut().for_each(|a| (a.refusal, a.token) = (refusal(), None)),
            State::Refused,
            Actor::Rekey,
        ),
        (
            "one not listed",
            |b| {
                b.accepted.remove(&token(1));
            },
            State::Converging,
            Actor::Rekey,
        ),
        (
            "one archived at Layer",
            |b| b.archived.extend([b.items[0].accounts[0].id.clone()]),
            State::Partly,
            Actor::Operator,
        ),
        ("one moves", |b| b.items[0].accounts[0].moving_from = Some(acme()), State::Converging, Actor::Rekey),
        (
            "one is missing, and its token is of now",
            |b| b.items[0].accounts[0].missing = true,
            State::Converged,
            Actor::Nobody,
        ),
        (
            "one is missing since its token died",
            |b| (b.items[0].accounts[0].missing, b.items[0].accounts[0].token) = (true, older(0)),
            State::Partly,
            Actor::Rekey,
        ),
        ("awaits its token", |b| b.items[0].state = ItemState::AwaitingToken, State::AwaitingToken, Actor::Platform),
        (
            "awaits its token, and the source is asked again and again",
            |b| (b.items[0].state, b.items[0].work) = (ItemState::AwaitingToken, blocked(Block::Backoff)),
            State::AwaitingToken,
            Actor::Platform,
        ),
        (
            "awaits its token, and Layer refuses the list for that",
            |b| (b.items[0].state, b.work) = (ItemState::AwaitingToken, blocked(Block::Backoff)),
            State::AwaitingToken,
            Actor::Platform,
        ),
        (
            "an event about an Item that awaited its token",
            |b| (b.items[0].state, b.items[0].work.signalled) = (ItemState::AwaitingToken, true),
            State::Converging,
            Actor::Rekey,
        ),
        (
            "its user must log in",
            |b| b.items[0].state = ItemState::LoginRequired,
            State::WaitingForUser,
            Actor::Customer,
        ),
        ("its Item is parked", |b| b.items[0].work = blocked(Block::Parked), State::Parked, Actor::Operator),
        ("its Item is retried", |b| b.items[0].work = blocked(Block::Backoff), State::Converging, Actor::Rekey),
        ("Plaid denied the Item once", |b| b.items[0].doubted = true, State::Converging, Actor::Rekey),
        (
            "an Item nobody has read yet",
            |b| (b.items[0].accounts, b.items[0].was_read) = (Vec::new(), false),
            State::Converging,
            Actor::Rekey,
        ),
        (
            "Plaid shows one more, with a type that nobody can read",
            |b| left_out(&mut b.items[0], Outside::Unreadable),
            State::Partly,
            Actor::Operator,
        ),
        (
            "the only account can't be read",
            |b| {
                b.items[0].accounts.clear();
                left_out(&mut b.items[0], Outside::Unreadable);
            },
            State::Refused,
            Actor::Operator,
        ),
        (
            "one can't be read, and an event waits",
            |b| {
                b.items[0].work.signalled = true;
                left_out(&mut b.items[0], Outside::Unreadable);
            },
            State::Converging,
            Actor::Rekey,
        ),
        (
            "the Item that shows it belongs to another business",
            |b| {
                b.items[0].business = None;
                left_out(&mut b.items[0], Outside::Unreadable);
            },
            State::Converged,
            Actor::Nobody,
        ),
        ("its only Item is gone", |b| b.items[0].state = ItemState::Removed, State::Converged, Actor::Nobody),
        (
            "nothing takes part and nothing was ever listed",
            |b| (b.items, b.was_listed, b.read_back) = (Vec::new(), false, false),
            State::Empty,
            Actor::Nobody,
        ),
    ];
    for (claim, change, state, next) in table {
        let mut facts = right(5);
        change(&mut facts);
        let verdict = of_business(&facts);
        assert_eq!((verdict.state, verdict.next), (*state, *next), "{claim}: {verdict:?}");
        assert_eq!(verdict.right + verdict.wrong.len(), verdict.accounts, "{claim}");
        assert!(!verdict.sentence().is_empty(), "{claim}");
    }
}

#[test]
fn i11_four_of_five_is_partly_and_names_the_fifth() {
    let mut facts = right(5);
    let fifth = &mut facts.items[0].accounts[4];
    (fifth.refusal, fifth.token) = (refusal(), older(4));
    let verdict = of_business(&facts);
    assert_eq!((verdict.state, verdict.right, verdict.accounts), (State::Partly, 4, 5));
    let [wrong] = &verdict.wrong[..] else { panic!("{verdict:?}") };
    assert_eq!(wrong.account.as_ref().map(AccountId::as_str), Some("a4"));
    assert_eq!((wrong.problem, wrong.code.as_deref()), (Problem::MintRefused, Some("PRODUCTS_NOT_SUPPORTED")));
    assert_eq!((wrong.again_at, verdict.next_at), (Some(Millis(7)), Some(Millis(7))));
}

#[test]
fn i11_a_pause_shows_on_what_waits_for_that_provider() {
    let mut facts = right(1);
    facts.work.signalled = true;
    let waits = of_business(&facts);
    assert_eq!(waits.clone().under(&[Provider::Plaid]).state, State::Converging);
    assert_eq!(waits.under(&[Provider::Layer]).state, State::ProviderPaused);
    facts.work.signalled = false;
    facts.items[0].work.signalled = true;
    assert_eq!(of_business(&facts).under(&[Provider::Plaid]).state, State::ProviderPaused);
    assert_eq!(of_item(&facts.items[0]).under(&[Provider::Plaid]).state, State::ProviderPaused);
    assert_eq!(of_business(&right(1)).under(Provider::ALL).state, State::Converged, "it needs nobody");
}

/// Pauses begin and end for all rows at once, without their verdicts being judged anew.
#[test]
fn i11_a_pause_changes_no_verdict() {
    for state in ItemState::ALL {
        for signalled in [false, true] {
            let of = |blocked: Option<Blocked>| {
                let work = WorkFacts { signalled, blocked, due_at: None };
                let one = ItemFacts { state: *state, work: work.clone(), ..item(2) };
                let list = BusinessFacts { items: vec![one.clone()], work, ..right(2) };
                let (one, list) = (of_item(&one), of_business(&list));
                [(one.state, one.waits_on), (list.state, list.waits_on)]
            };
            assert_eq!(of(None), of(blocked(Block::Pause).blocked), "{state}, signalled: {signalled}");
        }
    }
}

#[test]
fn i11_what_is_so_of_an_item() {
    type Change = fn(&mut ItemFacts);
    let table: &[(&str, Change, State)] = &[
        ("all minted", |_| {}, State::Converged),
        ("nothing takes part", |i| i.accounts.clear(), State::Empty),
        ("never read", |i| (i.accounts, i.was_read) = (Vec::new(), false), State::Converging),
        (
            "never read, and no token is proved",
            |i| {
                (i.accounts, i.was_read, i.state) = (Vec::new(), false, ItemState::AwaitingToken);
            },
            State::AwaitingToken,
        ),
        ("revoked", |i| i.state = ItemState::Revoked, State::Gone),
        ("an event waits", |i| i.work.signalled = true, State::Converging),
        ("retried", |i| i.work = blocked(Block::Backoff), State::Converging),
        ("parked", |i| i.work = blocked(Block::Parked), State::Parked),
        ("parked without accounts", |i| (i.work, i.accounts) = (blocked(Block::Parked), Vec::new()), State::Parked),
        ("one mint refused", |i| (i.accounts[0].refusal, i.accounts[0].token) = (refusal(), None), State::Partly),
        ("one to mint", |i| i.accounts[0].token = None, State::Converging),
        ("login", |i| i.state = ItemState::LoginRequired, State::WaitingForUser),
        ("nobody said where one of three belongs", |i| left_out(i, Outside::Nowhere), State::Partly),
        (
            "nobody said where any belongs",
            |i| {
                i.accounts.clear();
                left_out(i, Outside::Nowhere);
            },
            State::Unassigned,
        ),
        (
            "nobody said where any belongs, and the token is dead",
            |i| {
                (i.accounts, i.state) = (Vec::new(), ItemState::AwaitingToken);
                left_out(i, Outside::Nowhere);
            },
            State::AwaitingToken,
        ),
    ];
    for (claim, change, state) in table {
        let mut facts = item(2);
        change(&mut facts);
        assert_eq!(of_item(&facts).state, *state, "{claim}");
    }
}

#[test]
fn i11_only_three_states_are_good() {
    let good: Vec<State> = State::ALL.iter().copied().filter(|s| s.is_good()).collect();
    assert_eq!(good, [State::Converged, State::Empty, State::Gone]);
    let not_good: Vec<State> = State::ALL.iter().copied().filter(|s| !s.is_good()).collect();
    assert_eq!(not_good, State::NOT_GOOD);
}
