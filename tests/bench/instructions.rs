//! How many instructions the receiver's own work on a good webhook takes, as valgrind counts them: signature, hash, redaction, and
//! the little that is read. No clock, no kernel and no other process is in it, so a regression shows on any machine.

use crate::receiver::body;
use crate::report::{Figure, Report};
use domain::Fingerprinter;
use domain::redact::redact;
use domain::webhook::Webhook;
use sandbox::Signer;
use std::process::Command;
use tests::verifier;

/// Webhooks of the two runs, whose difference is what one costs: what a process does besides is the same in both.
const RUNS: [u64; 2] = [20, 120];

/// What an unoptimised build takes. Another compiler, and a processor for which the cryptography has other code, move it by less
/// than the margin. A change that moves it by more belongs here, with its reason in the commit.
const UNOPTIMISED: f64 = 1_070_000.0;
const MARGIN: f64 = 0.25;

/// `make bench-smoke` installs valgrind; a run without it says that this is not measured.
pub(crate) fn run(report: &mut Report) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        report.note("instructions: NOT MEASURED: valgrind is missing (a Debian package of that name)");
        return;
    }
    let [few, many] = RUNS.map(counted);
    let each = (many - few) as f64 / (RUNS[1] - RUNS[0]) as f64;
    report.add(Figure::one("instructions", "instructions of a good webhook's own work", "", each));
    if cfg!(debug_assertions) {
        let ratio = each / UNOPTIMISED;
        assert!((ratio - 1.0).abs() < MARGIN, "{each:.0} instructions a webhook, {ratio:.2} times what they were");
    }
}

fn counted(webhooks: u64) -> u64 {
    let program = std::env::current_exe().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let ran = valgrind.args(["webhooks", &webhooks.to_string()]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let count = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.unwrap_or_else(|| panic!("valgrind did not count: {said}"))
}

/// What is counted.
pub(crate) async fn work(webhooks: u64) {
    let signer = Signer::new(&mut rand::rng());
    let verifier = verifier(&signer);
    let fingerprints = Fingerprinter::new(1, &[7; 32]);
    let now = jiff::Timestamp::now().as_second();
    // Signed by valgrind's count as well: one signature for all.
    let body = body(0);
    let token = signer.sign(&body, now);
    for _ in 0..webhooks {
        let verified = verifier.verify(&[token.as_bytes()], body.clone().into(), now).await.unwrap();
        let redacted = redact(std::str::from_utf8(verified.body()).unwrap(), &fingerprints);
        assert!(Webhook::read(redacted.as_bytes()).unwrap().item.is_some());
    }
}
