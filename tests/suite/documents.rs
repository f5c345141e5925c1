//! The documents: every link leads somewhere, and README's walk-through works as it is pasted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tests::process::{binary, free_port};

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "deploy/README.md",
    "deploy/chart/README.md",
    "deploy/runbook.md",
    "deploy/walk/README.md",
    "crates/README.md",
    "tests/README.md",
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(document: &Path) -> String {
    std::fs::read_to_string(document).unwrap_or_else(|e| panic!("{}: {e}", document.display()))
}

/// Without what stands in fences: commands have brackets of their own.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// As GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings =
        headings.lines().filter_map(|l| l.trim_start_matches('#').strip_prefix(' ').filter(|_| l.starts_with('#')));
    let slug = |heading: &str| {
        let kept = heading.to_lowercase();
        kept.chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for document in DOCUMENTS.map(|d| top().join(d)) {
        let text = prose(&read(&document));
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", document.display());
            assert!(anchor.is_empty() || anchors(&read(&target)).contains(anchor), "{}: {link}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links were found");
}

#[test]
fn the_walk_through_survives_being_pasted_twice() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("rekey").display().to_string();
    let ports: Vec<(&str, String)> =
        ["8090", "9464", "9465", "8080", "8081"].into_iter().map(|port| (port, free_port().to_string())).collect();
    let moved = |text: &str| {
        let text = text.replace("/tmp/rekey", &place);
        ports
            .iter()
            .fold(text, |text, (from, to)| text.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}")))
    };
    let listen = |port: &str| moved(&format!("127.0.0.1:{port}"));
    let settings = folder.path().join("sandbox.toml");
    let given = moved(&read(&top().join("deploy/examples/sandbox.toml")));
    std::fs::write(&settings, format!("{given}\n[admin]\nurl = \"http://{}\"\n", listen("8081"))).unwrap();
    let readme = read(&top().join("README.md"));
    let block =
        readme.split_once("<!-- walk-through -->\n```sh\n").and_then(|(_, rest)| rest.split_once("\n```")).unwrap().0;
    let block = moved(block)
        .replace("$PWD/target/debug", &binary().parent().unwrap().display().to_string())
        .replace("deploy/examples/sandbox.toml", &settings.display().to_string());
    let script = format!("{block}\n{block}\nkill $SANDBOX $REKEY; wait");
    let done = Command::new("timeout")
        .args(["180", "bash", "-c", &script])
        .env("REKEY_OPS__LISTEN", listen("9464"))
        .env("REKEY_RECEIVER__LISTEN", listen("8080"))
        .env("REKEY_CONSOLE__LISTEN", listen("8081"))
        .env("REKEY_SANDBOX__LISTEN", listen("8090"))
        // As a terminal has them in which the lines of an ended `make run` were pasted.
        .env("REKEY_ADMIN__URL", "http://127.0.0.1:1")
        .env("REKEY_ADMIN__TOKEN_FILE", "/nowhere/admin-token")
        .env("REKEY_SANDBOX__WEBHOOK_URL", format!("http://{}/webhooks/plaid", listen("8080")))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (told, complained) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    for (what, times) in [("token accepted", 4), (r#""exact": true"#, 2)] {
        assert_eq!(told.matches(what).count(), times, "{what}:\n{told}\n{complained}");
    }
}
