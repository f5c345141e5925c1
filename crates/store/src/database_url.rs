//! The form of a PostgreSQL URL. The driver takes less than `libpq` does, and looks up in the DNS what it misreads, so what
//! is wrong is reported before that, in words that quote nothing: any part of such a URL may be the password.

use sqlx::any::AnyConnectOptions;

/// Parameters that the driver knows, https://docs.rs/sqlx/latest/sqlx/postgres/struct.PgConnectOptions.html.
const KNOWN: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];
/// What `libpq` knows besides, https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS.
const OF_LIBPQ: &[&str] = &[
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "passfile",
    "require_auth",
    "service",
    "sslcrl",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslnegotiation",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];
/// Those that name a file.
const FILES: &[&str] = &["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"];

/// What is wrong with a URL, to be read behind the name of its setting. None for a URL of another database.
pub fn url_fault(url: &str) -> Option<String> {
    let rest = of_postgres(url)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if behind.contains('@') {
        return Some(
            "has an @ behind what looks like its host: in the user's name and the password these characters must be written \
             as %2F for /, %3F for ?, %23 for #, %40 for @ and %3A for :"
                .into(),
        );
    }
    if rest.contains('#') {
        return Some("has a #, behind which nothing is read: write it as %23".into());
    }
    if host.contains(',') || hosts_in_query(url) {
        return Some(
            "names several hosts, and Rekey connects to one: name an address that follows the server which takes writes (a \
             service, a proxy); sessions that can't write are replaced by themselves"
                .into(),
        );
    }
    if host.is_empty() && !authority.is_empty() {
        return Some(
            "names no host behind the @: for a socket write postgres:///DATABASE?host=/DIRECTORY&user=USER&password=PASSWORD, with \
             &, #, + and % of the password as %26, %23, %2B and %25"
                .into(),
        );
    }
    let Ok(options) = url.parse::<AnyConnectOptions>() else {
        return Some(
            "can't be read: its form is postgres://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the password \
             as %XX"
                .into(),
        );
    };
    let pairs = options.database_url.query_pairs();
    pairs.filter(|(key, _)| FILES.contains(&key.as_ref())).find_map(|(key, file)| {
        let is_inline = file.trim().starts_with("-----BEGIN");
        let why = std::fs::File::open(file.as_ref()).err().filter(|_| !is_inline)?;
        Some(format!("names {file} as {key}, which can't be read: {why}"))
    })
}

/// A list of hosts as a parameter.
fn hosts_in_query(url: &str) -> bool {
    let options: Result<AnyConnectOptions, _> = url.parse();
    options.is_ok_and(|o| o.database_url.query_pairs().any(|(key, value)| key == "host" && value.contains(',')))
}

/// The URL without parameters that the driver does not know: it would log each with its value. Returns the names of those that
/// `libpq` knows, and `?` for any other: it may be a part of a password that was not escaped.
pub(crate) fn known_alone(url: &str) -> (String, Vec<String>) {
    let options = of_postgres(url).and_then(|_| url.parse::<AnyConnectOptions>().ok());
    let Some(mut parsed) = options.map(|o| o.database_url) else { return (url.to_owned(), Vec::new()) };
    let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
    let is_known = |key: &str| KNOWN.contains(&key) || key.starts_with("options[");
    let (known, unknown): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(key, _)| is_known(key));
    if unknown.is_empty() {
        return (url.to_owned(), Vec::new());
    }
    parsed.set_query(None);
    if !known.is_empty() {
        parsed.query_pairs_mut().extend_pairs(known);
    }
    let shown = |key: String| if OF_LIBPQ.contains(&key.as_str()) { key } else { "?".to_owned() };
    (parsed.to_string(), unknown.into_iter().map(|(key, _)| shown(key)).collect())
}

/// What stands behind the scheme.
fn of_postgres(url: &str) -> Option<&str> {
    ["postgres://", "postgresql://", "postgres:", "postgresql:"].iter().find_map(|scheme| url.strip_prefix(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libpq_takes_and_the_driver_does_not_is_told_by_the_form_that_works() {
        let table = [
            ("postgresql://app:x@Secr3tPart/w#rd:?@127.0.0.1:5432/rekey", Some("%2F for /")),
            ("postgres://app:Secr3tPart?@db/rekey", Some("%2F for /")),
            ("postgres://app:Secr3tPart#1@db/rekey", Some("%2F for /")),
            (
                "postgresql://rekey:Secr3tPart@/rekey?host=/cloudsql/project:region:instance",
                Some("postgres:///DATABASE?host=/DIRECTORY"),
            ),
            (
                "postgres://rekey:Secr3tPart@db-1:5432,db-2:5432/rekey?target_session_attrs=read-write",
                Some("several hosts"),
            ),
            ("postgres://rekey:Secr3tPart@db:port/rekey", Some("its form is")),
            ("postgres:///rekey?host=db-1,db-2&user=rekey", Some("several hosts")),
            ("postgres:///rekey?host=/run&user=rekey&password=a#Secr3tPart", Some("as %23")),
            (
                "postgres://rekey:Secr3tPart@db/rekey?sslmode=verify-full&sslrootcert=/nonexistent.pem",
                Some("/nonexistent.pem as sslrootcert"),
            ),
            ("postgres://rekey:x@y@db/rekey", None),
            ("postgres://rekey:x%2Fy%40z@db/rekey", None),
            ("postgresql://rekey@localhost/rekey?host=/socket/dir", None),
            ("postgresql:///rekey?host=/socket/dir&user=rekey", None),
            ("postgresql://rekey@%2Fsocket%2Fdir/rekey", None),
            ("postgres://[::1]:5432/rekey", None),
            ("sqlite:///tmp/a@b,c", None),
        ];
        for (url, told) in table {
            let fault = url_fault(url);
            assert_eq!(fault.is_some(), told.is_some(), "{url}: {fault:?}");
            let fault = fault.unwrap_or_default();
            assert!(fault.contains(told.unwrap_or_default()), "{url}: {fault}");
            assert!(!fault.contains("Secr3tPart"), "I3: {fault}");
        }
    }

    #[test]
    fn a_parameter_that_the_driver_would_log_does_not_reach_it() {
        let url = "postgres://u@db/x?sslmode=require&passwd=Secr3t&options[a]=b&channel_binding=require";
        let (left, unknown) = known_alone(url);
        assert_eq!(left, "postgres://u@db/x?sslmode=require&options%5Ba%5D=b");
        assert_eq!(unknown, ["?", "channel_binding"], "who knows what it is part of");
        let fine = "postgres://u:p@db/x?host=/a&user=b";
        assert_eq!(known_alone(fine), (fine.to_owned(), Vec::new()));
    }
}
