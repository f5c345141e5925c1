//! TLS to PostgreSQL: verified unless the URL itself says otherwise. The driver's own default, `prefer`, encrypts to
//! anybody who answers, and not at all to one who says that it can't.

use crate::database_url::known_alone;
use sqlx::any::AnyConnectOptions;
use std::net::IpAddr;

/// What an `sslmode` is called in a URL.
const MODE: [&str; 2] = ["sslmode", "ssl-mode"];

/// The URL, with `sslmode=verify-full` if it names a PostgreSQL elsewhere and no mode, and without what the driver does not
/// know. What can't be read stays as it is, for whoever opens it to complain.
pub fn verified_url(url: &str) -> String {
    let (url, unknown) = known_alone(url);
    if !unknown.is_empty() {
        tracing::warn!(?unknown, "parameters of a database URL are left out, because the driver does not know them");
    }
    let url = url.as_str();
    let Some(options) = elsewhere(url).filter(|options| mode(options).is_none()) else { return url.to_owned() };
    let mut parsed = options.database_url;
    parsed.query_pairs_mut().append_pair("sslmode", "verify-full");
    parsed.to_string()
}

/// The mode of a URL that names a PostgreSQL elsewhere without proving who answers there.
pub fn unverified_mode(url: &str) -> Option<String> {
    mode(&elsewhere(url)?).filter(|mode| !mode.eq_ignore_ascii_case("verify-full"))
}

fn mode(options: &AnyConnectOptions) -> Option<String> {
    let mut pairs = options.database_url.query_pairs();
    // As in the driver, the last one holds; one that is repeated is told as such.
    pairs.by_ref().filter(|(key, _)| MODE.contains(&key.as_ref())).last().map(|(_, value)| value.into_owned())
}

/// Some: a PostgreSQL that is not on this machine.
fn elsewhere(url: &str) -> Option<AnyConnectOptions> {
    let options: AnyConnectOptions = url.parse().ok()?;
    let parsed = &options.database_url;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") {
        return None;
    }
    let named = parsed.query_pairs().filter(|(key, _)| matches!(key.as_ref(), "host" | "hostaddr"));
    let mut hosts: Vec<String> = named.map(|(_, value)| value.into_owned()).collect();
    hosts.extend(parsed.host_str().map(|host| host.replace("%2F", "/").replace("%2f", "/")));
    hosts.iter().any(|host| !is_local(host)).then_some(options)
}

/// A socket or a loopback address: there is no network in between.
fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.is_empty()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|a| a.is_loopback())
}

/// What an operator can do about a connection that TLS prevents.
pub(crate) fn tls_hint(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support TLS") => {
            ": it has no TLS, so turn it on there, or say sslmode=disable in the URL if the network may see all of it"
        }
        sqlx::Error::Database(cause) if cause.message().contains("unsupported startup parameter") => {
            ": that is PgBouncer, so set ignore_startup_parameters = extra_float_digits there"
        }
        sqlx::Error::Tls(_) => ": TLS failed, see sslmode and sslrootcert in the URL",
        sqlx::Error::Io(cause) if cause.to_string().contains("certificate") => {
            ": its certificate is not trusted, so name its authority as sslrootcert=FILE in the URL"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postgresql_elsewhere_is_verified_unless_the_url_says_otherwise() {
        let verified = "?sslmode=verify-full";
        let table = [
            ("postgres://u:p%40@db/rekey", verified),
            ("postgresql://u@db.example:5433/rekey", verified),
            ("postgres://u@10.0.0.7/rekey", verified),
            ("postgres://u@[2001:db8::1]/rekey", verified),
            ("postgres://u@db/rekey?sslrootcert=/ca.pem", "&sslmode=verify-full"),
            ("postgres://u@127.0.0.1/rekey?host=db", "&sslmode=verify-full"),
            ("postgres://u@localhost.example/rekey", verified),
            ("postgres://u@db/rekey?sslmode=disable", ""),
            ("postgres://u@db/rekey?ssl-mode=require", ""),
            ("postgres://u@127.0.0.1:5432/rekey", ""),
            ("postgres://u@127.9.9.9/rekey", ""),
            ("postgres://u@[::1]/rekey", ""),
            ("postgres://u@LOCALHOST/rekey", ""),
            ("postgres:///rekey?host=/var/run/postgresql", ""),
            ("postgres://u@%2Fvar%2Frun%2Fpostgresql/rekey", ""),
            ("sqlite:///tmp/x", ""),
            ("no url", ""),
        ];
        for (url, added) in table {
            assert_eq!(verified_url(url), format!("{url}{added}"));
        }
    }

    #[test]
    fn a_mode_that_proves_nothing_is_told() {
        let table = [
            ("postgres://u@db/x?sslmode=disable", Some("disable")),
            ("postgres://u@db/x?sslmode=verify-full&sslmode=prefer", Some("prefer")),
            ("postgres://u@db/x?sslmode=verify-ca", Some("verify-ca")),
            ("postgres://u@db/x?sslmode=verify-full", None),
            ("postgres://u@db/x", None),
            ("postgres://u@127.0.0.1/x?sslmode=disable", None),
        ];
        for (url, told) in table {
            assert_eq!(unverified_mode(url).as_deref(), told, "{url}");
        }
    }
}
