use super::*;
use std::time::Duration;

fn with(text: &str) -> Result<Config, ConfigError> {
    load_text("my.toml", text, &BTreeMap::new())
}
fn refused(text: &str) -> String {
    with(text).map(|_| ()).unwrap_err().to_string()
}
fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn the_example_is_the_defaults() {
    let config = with("").unwrap();
    assert_eq!(config.consumer.sweep_period, Duration::from_secs(86_400));
    assert_eq!(config.kafka.linger, Duration::from_millis(5));
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest_one() {
    let message = refused("[kafka]\ngroup = \"a\"\nbotstrap = \"x\"\n");
    assert_eq!(message, "my.toml line 3: there is no setting `kafka.botstrap`; did you mean `kafka.bootstrap`?");
    assert!(refused("[recever]\n").contains("did you mean `receiver`?"));
}

#[test]
fn a_value_of_the_wrong_form_is_named_with_its_line_and_not_quoted() {
    let message = refused("\n[consumer]\nlease = \"marked\"\n");
    assert!(message.starts_with("my.toml line 3: `consumer.lease`") && !message.contains("marked"), "{message}");
    let message = refused("[layer]\nunknown_tokens = \"drop\"\n");
    assert!(message.contains("must be one of refuse, keep, adopt"), "{message}");
    let message = refused("[plaid]\nsecret = 77123\n");
    assert!(message.contains("line 2") && !message.contains("77123"), "{message}");
}

#[test]
fn librdkafka_wants_texts_and_takes_what_people_write() {
    let config =
        with("[kafka.properties]\n\"session.timeout.ms\" = 45000\n\"socket.keepalive.enable\" = true\n").unwrap();
    let set = |name: &str| config.kafka.connection().properties.get(name).cloned().unwrap_or_default();
    assert_eq!((set("session.timeout.ms").as_str(), set("socket.keepalive.enable").as_str()), ("45000", "true"));
    assert!(refused("[kafka.properties]\n\"session.timeout.ms\" = [1]\n").contains("kafka.properties"));
}

#[test]
fn a_property_that_would_break_rekey_is_refused_with_the_reason() {
    for name in ["group.instance.id", "transactional.id", "auto.offset.reset", "enable.auto.offset.store"] {
        let refused = with(&format!("[kafka.properties]\n\"{name}\" = \"x\"\n")).unwrap().check_properties();
        let told = refused.unwrap_err().to_string();
        assert!(told.contains(name) && told.contains("leave it out"), "{told}");
    }
}

#[test]
fn broken_toml_is_named_with_its_line() {
    assert!(refused("[kafka]\nx = = 1\n").starts_with("my.toml line 2: this is not TOML"));
}

#[test]
fn the_environment_wins_over_the_file_and_is_checked_too() {
    let text = "[kafka]\ngroup = \"file\"\n";
    let load = |e: &[(&str, &str)]| load_text("my.toml", text, &env(e));
    let config = load(&[("REKEY_KAFKA__GROUP", "env"), ("REKEY_CONSUMER__WORKERS", "3"), ("HOME", "/")]).unwrap();
    assert_eq!((config.kafka.group.as_str(), config.consumer.workers), ("env", 3));
    let error = load(&[("REKEY_KAFKA__GRUOP", "x")]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("REKEY_KAFKA__GRUOP") && error.contains("did you mean REKEY_KAFKA__GROUP?"), "{error}");
    let error = load(&[("REKEY_CONSUMER__LEASE", "marked")]).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("environment variable REKEY_CONSUMER__LEASE: `consumer.lease`"), "{error}");
    assert!(!error.contains("marked"), "{error}");
    let error = load(&[("REKEY_CONSUMER__WORKERS", "many")]).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("integer"), "{error}");
}

#[test]
fn a_secret_comes_from_a_file_and_a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "from-file\n").unwrap();
    let config = with(&format!("[plaid]\nsecret_file = {path:?}\n")).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&config.plaid.secret), "from-file");
    let text = format!("[plaid]\nsecret_file = {path:?}\n");
    let config = load_text("my.toml", &text, &env(&[("REKEY_PLAID__SECRET", "from-env")])).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&config.plaid.secret), "from-env", "the environment wins");
    let named = env(&[("REKEY_PLAID__SECRET_FILE", path.to_str().unwrap())]);
    let config = load_text("my.toml", "[plaid]\nsecret = \"plain\"\n", &named).unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&config.plaid.secret), "from-file");
    let both = refused(&format!("[plaid]\nsecret = \"plain\"\nsecret_file = {path:?}\n"));
    assert!(both.starts_with("my.toml line 3: `plaid.secret_file` stands beside"), "{both}");
    assert!(refused("[plaid]\nsecret_file = \"/nowhere/at/all\"\n").contains("/nowhere/at/all"));
}

#[test]
fn i3_a_configuration_never_prints_its_secrets() {
    let config = with("[plaid]\nsecret = \"marked\"\n[kafka.properties]\n\"sasl.password\" = \"marked\"\n").unwrap();
    assert!(!format!("{config:?}").contains("marked"));
}

#[test]
fn traces_are_off_until_they_have_an_endpoint_and_headers_go_in_the_clear_to_this_machine_only() {
    let traces = |text: &str| with(&format!("[trace]\n{text}")).unwrap().traces();
    assert!(traces("").unwrap().is_none());
    let settings =
        traces("endpoint = \"http://127.0.0.1:4318\"\nheaders = \"x-key = marked==, b=2\"").unwrap().unwrap();
    assert_eq!((settings.headers["x-key"].to_str().unwrap(), settings.headers.len()), ("marked==", 2));
    assert!(!format!("{settings:?}").contains("marked"));
    assert!(traces("endpoint = \"http://collector:4318\"").is_ok(), "spans hold no secret");
    let table = [
        ("headers in the clear", "endpoint = \"http://collector:4318\"\nheaders = \"a=marked\"", "https://"),
        ("no pair", "endpoint = \"http://127.0.0.1\"\nheaders = \"marked\"", "name=value"),
        ("no name", "endpoint = \"http://127.0.0.1\"\nheaders = \"=marked\"", "name=value"),
        ("no URL", "endpoint = \"marked:4318\"", "http://"),
    ];
    for (claim, text, word) in table {
        let error = traces(text).unwrap_err().to_string();
        assert!(error.starts_with("trace.") && error.contains(word) && !error.contains("marked"), "{claim}: {error}");
    }
    for sample in ["1.5", "nan"] {
        let error = refused(&format!("[trace]\nsample = {sample}\n"));
        assert!(error.contains("`trace.sample` is wrong: expected a number between 0 and 1"), "{error}");
    }
}

/// "What a million Items need", in deploy/README.md.
#[test]
fn the_sizing_that_the_readme_gives_is_that_of_the_defaults() {
    let config = with("").unwrap();
    let limits = config.consumer.budget(&config.plaid.limits, &config.layer.limits);
    let hours = |items, businesses| config.consumer.sweep_period_for(&limits, items, businesses).as_secs() / 3600;
    assert_eq!(hours(1_000_000, 0), 33);
    assert_eq!(hours(0, 250_000), 24, "within the period: it would take less");
    assert_eq!(hours(0, 350_000), 29, "21 hours for 250 000");
    assert_eq!(10_000 / limits.mint, 40, "minutes for a mass rotation");
}
