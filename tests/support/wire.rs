//! What passes an interface in clear text, as a tap sees it.
#![allow(dead_code, reason = "each binary takes what it needs")]

use std::{
    io::Read as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use adit::sys::{netns::Netns, packet};

/// Looks for a word in all frames, until it is dropped.
pub(crate) struct Wire {
    seen: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    looks: Option<JoinHandle<()>>,
}

impl Wire {
    /// In those that pass this interface from here on.
    pub(crate) fn tap(netns: &Netns, interface: &str, word: &'static str) -> Self {
        let mut tap = packet::tap(netns, interface, Duration::from_millis(50)).expect("a tap");
        let (seen, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counts, ends) = (Arc::clone(&seen), Arc::clone(&over));
        let looks = thread::spawn(move || {
            let mut frame = vec![0; 1 << 17];
            loop {
                // All that has come by the end is looked at.
                let last = ends.load(SeqCst);
                match tap.read(&mut frame) {
                    Ok(n) => {
                        let has = frame[..n].windows(word.len()).any(|at| at == word.as_bytes());
                        counts.fetch_add(usize::from(has), SeqCst);
                    }
                    Err(_) if last => return,
                    Err(_) => {}
                }
            }
        });
        Self { seen, over, looks: Some(looks) }
    }

    /// How many frames had it.
    pub(crate) fn saw(mut self) -> usize {
        self.ends();
        self.seen.load(SeqCst)
    }

    fn ends(&mut self) {
        self.over.store(true, SeqCst);
        if let Some(looks) = self.looks.take() {
            let _ = looks.join();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends();
    }
}
