//! What is said while it rages, and what is counted.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One scene's log.
#[derive(Debug)]
pub(crate) struct Log {
    scene: &'static str,
    began: Instant,
    kills: AtomicUsize,
    faults: Mutex<BTreeMap<String, (usize, Duration)>>,
    /// What is strange without being wrong by itself, each once with how often.
    notes: Mutex<BTreeMap<String, usize>>,
}

impl Log {
    pub(crate) fn new(scene: &'static str) -> Self {
        Self {
            scene,
            began: Instant::now(),
            kills: AtomicUsize::new(0),
            faults: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    pub(crate) fn say(&self, text: &str) {
        println!("{:>8} {:>7.1} s  {text}", self.scene, self.began.elapsed().as_secs_f64());
        tracing::info!("{}: {text}", self.scene);
    }

    pub(crate) fn killed(&self, how_many: usize) {
        self.kills.fetch_add(how_many, Ordering::SeqCst);
    }
    pub(crate) fn kills(&self) -> usize {
        self.kills.load(Ordering::SeqCst)
    }

    pub(crate) fn fault(&self, kind: &str, lasted: Duration) {
        let mut faults = self.faults.lock();
        let entry = faults.entry(kind.to_owned()).or_default();
        entry.0 += 1;
        entry.1 += lasted;
    }

    pub(crate) fn note(&self, note: &str) {
        tracing::warn!("{}: {note}", self.scene);
        *self.notes.lock().entry(note.to_owned()).or_default() += 1;
    }

    /// The table of faults, then the notes.
    pub(crate) fn show_faults(&self) {
        println!("\n  {:<34} {:>6} {:>10}", "fault", "drawn", "seconds");
        for (kind, (count, lasted)) in &*self.faults.lock() {
            println!("  {kind:<34} {count:>6} {:>10.1}", lasted.as_secs_f64());
        }
        println!("  {:<34} {:>6}", "kills among them", self.kills());
        for (note, count) in &*self.notes.lock() {
            println!("  note: {note} ({count} times)");
        }
    }
}
