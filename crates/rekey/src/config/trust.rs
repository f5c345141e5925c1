//! Which servers this process trusts, and what it sends unencrypted.

use super::Config;
use super::rules::{BadSetting, http_url};
use secrecy::ExposeSecret;

/// What is sent there is secret, so it goes in the clear to this machine at most, and to hosts that `tls.plain_http` names.
pub(crate) fn provider_url(key: &'static str, text: &str, plain_http: &[String]) -> Result<(), BadSetting> {
    http_url(key, text)?;
    let clear = reqwest::Url::parse(text).ok().filter(|url| url.scheme() == "http");
    let host = clear.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| "localhost".into());
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let may = host == "localhost" || address.is_ok_and(|a| a.is_loopback()) || plain_http.contains(&host);
    BadSetting::refuse(!may, key, "must begin with https://, because credentials and tokens go there")
}

impl Config {
    /// PEM certificates of authorities that are trusted besides the system's.
    pub(crate) fn extra_roots(&self) -> Result<String, BadSetting> {
        let pem = &self.tls.ca;
        let known = reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_or(0, |roots| roots.len());
        let none = known == 0 && !pem.trim().is_empty();
        BadSetting::refuse(none, "tls.ca (or tls.ca_file)", "must hold certificates in PEM form")?;
        Ok(pem.clone())
    }

    /// The console speaks plain HTTP, and admin tokens and access tokens come to it.
    pub fn console_in_the_clear(&self) -> Option<String> {
        let at = self.console.listen;
        (!at.ip().is_loopback()).then(|| {
            format!(
                "console.listen is {at}: access tokens and admin tokens come there in the clear, so let only what encrypts on \
                 the way reach it (a mesh, a proxy on the same machine), and nobody else"
            )
        })
    }

    /// What the configuration leaves unproved on purpose: written by an operator, so allowed, and said aloud.
    pub fn unverified(&self) -> Vec<String> {
        let property = |name: &str| self.kafka.properties.get(name).map(|v| v.expose_secret().to_ascii_lowercase());
        // librdkafka's spellings.
        let off = |name: &str| property(name).is_some_and(|v| matches!(v.trim(), "false" | "f" | "0" | "no" | "off"));
        let protocol = property("security.protocol");
        let elsewhere = |broker: &str| {
            let host = broker.trim().rsplit_once("://").map_or(broker.trim(), |(_, rest)| rest);
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            !matches!(host, "localhost" | "127.0.0.1" | "[::1]" | "::1" | "embedded")
        };
        let of_kafka = [
            (
                off("enable.ssl.certificate.verification"),
                "switches enable.ssl.certificate.verification off: anybody can be the broker",
            ),
            (
                property("ssl.endpoint.identification.algorithm").as_deref() == Some("none"),
                "sets ssl.endpoint.identification.algorithm to none: any certificate of a trusted authority can be the broker's",
            ),
            (
                property("sasl.password").is_some() && protocol.as_deref() != Some("sasl_ssl"),
                "has a sasl.password without security.protocol = sasl_ssl: it goes in the clear",
            ),
            (
                protocol.is_none_or(|p| p == "plaintext") && self.kafka.bootstrap.split(',').any(elsewhere),
                "has no security.protocol: anybody on the way can be the broker, and read and write events",
            ),
            (
                property("sasl.oauthbearer.token.endpoint.url").is_some_and(|url| url.starts_with("http://")),
                "fetches OAUTHBEARER tokens over http://: the client's secret goes in the clear",
            ),
            (
                property("group.protocol").as_deref() == Some("consumer"),
                "sets group.protocol to consumer, which the librdkafka of this release does not do well: leave it out",
            ),
        ];
        let of_kafka =
            of_kafka.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| format!("kafka.properties {what}"));
        let clear = self.tls.plain_http.iter().map(|host| {
            format!("tls.plain_http lets credentials and tokens go to {host} in the clear: for a sandbox only")
        });
        let urls = [("database.url", &self.database.url), ("token_source.url", &self.token_source.url)];
        let of_databases = urls.into_iter().filter_map(|(key, url)| {
            let mode = store::unverified_mode(url.expose_secret())?;
            Some(format!("{key} says sslmode={mode}: anybody can be that database, sslmode=verify-full proves it"))
        });
        clear.chain(of_kafka).chain(of_databases).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::load_text;
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn credentials_go_in_the_clear_to_this_machine_only() {
        let table = [
            ("https://sandbox.plaid.com", true),
            ("http://127.0.0.1:8090", true),
            ("http://[::1]:8090/x", true),
            ("http://localhost/x", true),
            ("http://plaid.internal", false),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
            ("http://127.0.0.1@example.com", false),
            ("ftp://127.0.0.1", false),
        ];
        for (url, taken) in table {
            assert_eq!(provider_url("k", url, &[]).is_ok(), taken, "{url}");
        }
        let named = ["plaid.internal".to_owned()];
        assert!(provider_url("k", "http://plaid.internal", &named).is_ok());
        assert!(provider_url("k", "http://plaid.internal.example", &named).is_err());
    }

    #[test]
    fn what_is_left_unproved_is_told_and_quotes_nothing_secret() {
        let told = |text: &str| load_text("t", text, &BTreeMap::new()).unwrap().unverified();
        assert_eq!(told(""), Vec::<String>::new());
        let sound = r#"
            [kafka.properties]
            "security.protocol" = "SASL_SSL"
            "sasl.password" = "marked"
            [database]
            url = "postgres://u:marked@db/x"
        "#;
        assert_eq!(told(sound), Vec::<String>::new());
        let loose = r#"
            [tls]
            plain_http = ["sandbox"]
            [kafka.properties]
            "sasl.password" = "marked"
            "enable.ssl.certificate.verification" = "False"
            "ssl.endpoint.identification.algorithm" = "none"
            [database]
            url = "postgres://u:marked@db/x?sslmode=require"
            [token_source]
            url = "postgres://u:marked@db/x?sslmode=disable"
        "#;
        let told = told(loose);
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(!told.join(" ").contains("marked"), "{told:?}");
    }

    #[test]
    fn a_console_beyond_this_machine_is_told() {
        let told = |listen: &str| {
            load_text("t", &format!("[console]\nlisten = \"{listen}\"\n"), &BTreeMap::new())
                .unwrap()
                .console_in_the_clear()
        };
        for near in ["127.0.0.1:8081", "127.9.9.9:1", "[::1]:8081"] {
            assert_eq!(told(near), None, "{near}");
        }
        for far in ["0.0.0.0:8081", "[::]:8081", "10.0.0.7:1"] {
            assert!(told(far).is_some_and(|t| t.contains(far)), "{far}");
        }
    }

    #[test]
    fn an_authority_that_is_none_is_refused() {
        let roots = |pem: &str| {
            load_text("t", &format!("[tls]\nca = \"{pem}\"\n"), &BTreeMap::new()).unwrap().extra_roots().map(drop)
        };
        assert!(roots("").is_ok());
        assert!(roots("no certificate").unwrap_err().to_string().starts_with("tls.ca"));
    }
}
