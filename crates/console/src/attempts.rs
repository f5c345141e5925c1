//! Wrong tokens are limited by the address they come from: not because one could be guessed (they are 192 random bits), but
//! so that a guesser fills no log. A right token is compared first and always passes: behind a proxy, or on this machine,
//! everybody has one address.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Wrong tokens of one address within [`WINDOW`].
const MOST_WRONG: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered at once. An attacker with more of them forgets his own.
const MOST_PEERS: usize = 4096;

/// Who guessed how often.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    peers: Mutex<HashMap<IpAddr, Peer>>,
}

#[derive(Debug)]
struct Peer {
    began: Instant,
    wrong: u32,
}

impl Attempts {
    /// How long wrong tokens from this address are answered 429. None: they are not.
    pub(crate) fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let peers = self.peers.lock();
        let peer = peers.get(&peer).filter(|p| p.wrong >= MOST_WRONG)?;
        WINDOW.checked_sub(now.duration_since(peer.began)).filter(|left| !left.is_zero())
    }

    /// True when this was the one too many, so that it is said once and not for each guess.
    pub(crate) fn wrong(&self, peer: IpAddr, now: Instant) -> bool {
        self.with(peer, now, |p| {
            p.wrong += 1;
            p.wrong == MOST_WRONG
        })
    }

    fn with<T>(&self, peer: IpAddr, now: Instant, act: impl FnOnce(&mut Peer) -> T) -> T {
        let mut peers = self.peers.lock();
        if peers.len() >= MOST_PEERS && !peers.contains_key(&peer) {
            let oldest = peers.iter().min_by_key(|(_, p)| p.began).map(|(a, _)| *a);
            oldest.map(|address| peers.remove(&address));
        }
        let fresh = Peer { began: now, wrong: 0 };
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
    fn guesses_are_limited_by_address_and_window() {
        let (attempts, began) = (Attempts::default(), Instant::now());
        let [guesser, other] = ["10.0.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        for n in 1..=MOST_WRONG {
            assert_eq!(attempts.wait(guesser, began), None, "{n}");
            assert_eq!(attempts.wrong(guesser, began), n == MOST_WRONG);
        }
        let later = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(attempts.wait(guesser, later(20)), Some(Duration::from_secs(40)));
        assert_eq!(attempts.wait(other, later(20)), None, "another address");
        assert_eq!(attempts.wait(guesser, later(60)), None, "the window is over");
        assert!(!attempts.wrong(guesser, later(60)), "and the next one begins at nothing");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..8_000u32 {
            attempts.wrong(IpAddr::V4(n.into()), now);
        }
        assert!(attempts.peers.lock().len() <= MOST_PEERS);
    }
}
