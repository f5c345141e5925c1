//! Wrong tokens are limited by the address they come from.
//!
//! Over the limit nothing that an address presents is compared any more, except tokens that were right from there
//! before: behind a proxy, or on this machine, everybody has one address, and somebody's guesses must not stop the
//! platform's pushes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens of one address within [`WINDOW`].
const MOST_WRONG: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once. An attacker with more of them forgets his own.
const MOST_PEERS: usize = 4096;

/// Who guessed how often, and who was right.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    peers: Mutex<HashMap<IpAddr, Peer>>,
}

#[derive(Debug)]
struct Peer {
    began: Instant,
    wrong: u32,
    /// Hashes of tokens that were right from there.
    right: HashSet<String>,
}

impl Attempts {
    /// How long this address has to wait before anything new that it presents is compared. None: now.
    pub(crate) fn wait(&self, peer: IpAddr, hash: &str, now: Instant) -> Option<Duration> {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&peer).filter(|p| p.wrong >= MOST_WRONG && !p.right.contains(hash))?;
        WINDOW.checked_sub(now.duration_since(peer.began)).filter(|left| !left.is_zero())
    }

    pub(crate) fn right(&self, peer: IpAddr, hash: &str, now: Instant) {
        self.with(peer, now, |p| {
            if !p.right.contains(hash) {
                p.right.insert(hash.to_owned());
            }
        });
    }

    /// True when this was the one too many, so that it is said once and not for each guess.
    pub(crate) fn wrong(&self, peer: IpAddr, now: Instant) -> bool {
        self.with(peer, now, |p| {
            p.wrong += 1;
            p.wrong == MOST_WRONG
        })
    }

    fn with<T>(&self, peer: IpAddr, now: Instant, act: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= MOST_PEERS && !peers.contains_key(&peer) {
            let oldest = peers.iter().min_by_key(|(_, p)| (!p.right.is_empty(), p.began)).map(|(a, _)| *a);
            oldest.map(|address| peers.remove(&address));
        }
        let fresh = Peer { began: now, wrong: 0, right: HashSet::new() };
        let peer = peers.entry(peer).or_insert(fresh);
        if now.duration_since(peer.began) >= WINDOW {
            (peer.began, peer.wrong) = (now, 0);
        }
        act(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_limited_by_address_and_window_and_stop_nobody_who_was_right() {
        let (attempts, began) = (Attempts::default(), Instant::now());
        let [guesser, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        attempts.right(guesser, "good", began);
        for n in 1..=MOST_WRONG {
            assert_eq!(attempts.wait(guesser, "guess", began), None, "{n}");
            assert_eq!(attempts.wrong(guesser, began), n == MOST_WRONG);
        }
        let later = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(attempts.wait(guesser, "guess", later(20)), Some(Duration::from_secs(40)));
        assert_eq!(attempts.wait(guesser, "good", later(20)), None, "it was right before");
        assert_eq!(attempts.wait(other, "guess", later(20)), None, "another address");
        assert_eq!(attempts.wait(guesser, "guess", later(60)), None, "the window is over");
        assert!(!attempts.wrong(guesser, later(60)), "and the next one begins at nothing");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_keeps_those_who_were_right() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let platform = "192.0.2.1".parse().unwrap();
        attempts.right(platform, "good", now);
        for n in 0..8_000u32 {
            attempts.wrong(IpAddr::V4(n.into()), now);
        }
        let peers = attempts.peers.lock().unwrap();
        assert!(peers.len() <= MOST_PEERS && peers.contains_key(&platform));
    }
}
