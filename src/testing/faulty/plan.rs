//! The rules with their counts, which decide which faults a call gets.

use super::fault::Fault;
use super::rule::FaultRule;
use crate::sync::Mutex;
use crate::{Key, Operation};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// A call that may get a fault.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    pub(super) keys: &'a [Key<'a>],
    /// The number of locks and checks, which are the first keys.
    pub(super) locks: usize,
}

impl Call<'_> {
    fn allows(&self, fault: Fault) -> bool {
        let is_commit = matches!(self.operation, Operation::Commit | Operation::SetAtomic);
        let is_blind_write = matches!(self.operation, Operation::Set | Operation::Delete);
        match fault {
            Fault::Latency(_) => true,
            // Empty input always succeeds (guarantee 10).
            _ if self.keys.is_empty() && self.operation != Operation::Scan => false,
            Fault::Unavailable | Fault::Backend => true,
            Fault::OutcomeUnknown { .. } => is_commit || is_blind_write,
            Fault::Conflict => is_commit && self.locks > 0,
            Fault::Partial => is_blind_write && self.keys.len() > 1,
            Fault::ShortPage => self.operation == Operation::Page,
        }
    }
}

/// What a call gets.
#[derive(Clone, Copy)]
pub(super) struct Decision {
    /// `None` is no latency.
    pub(super) latency: Option<Duration>,
    pub(super) fault: Option<Fault>,
    /// Random bits, which choose within a fault: a lock, or the part of a write that is applied.
    pub(super) choice: u64,
}

pub(super) struct Plan {
    seed: u64,
    rules: Vec<FaultRule>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many calls of each operation with each list of keys there were, by their hash.
    calls: HashMap<u64, u64>,
    /// How many calls each rule has selected.
    selected: Vec<u64>,
}

impl Plan {
    pub(super) fn new(seed: u64, rules: Vec<FaultRule>) -> Self {
        let state = State {
            calls: HashMap::new(),
            selected: vec![0; rules.len()],
        };
        Plan {
            seed,
            rules,
            state: Mutex::new(state),
        }
    }

    /// Returns the plan with another seed, before its first call.
    pub(super) fn with_seed(&self, seed: u64) -> Self {
        Plan::new(seed, self.rules.clone())
    }

    /// Counts `call` and decides what it gets: the sum of all latencies, and the first other fault.
    pub(super) fn decide(&self, call: &Call<'_>) -> Decision {
        let hash = hash_call(self.seed, call);
        let mut state = self.state.lock();
        let number = state.calls.entry(hash).or_default();
        *number += 1;
        let choice = mix(hash ^ mix(*number));
        let mut decision = Decision {
            latency: None,
            fault: None,
            choice,
        };
        for (index, rule) in self.rules.iter().enumerate() {
            let is_latency = matches!(rule.fault, Fault::Latency(_));
            if decision.fault.is_some() && !is_latency {
                continue;
            }
            let random = mix(choice ^ mix(index as u64 + 1));
            if !rule.selects(call, random) {
                continue;
            }
            let earlier = state.selected[index];
            state.selected[index] += 1;
            if earlier < rule.skip || earlier - rule.skip >= rule.times {
                continue;
            }
            match rule.fault {
                Fault::Latency(latency) => {
                    let sum = decision.latency.unwrap_or_default();
                    decision.latency = Some(sum.saturating_add(latency));
                }
                fault => decision.fault = Some(fault),
            }
        }
        decision
    }
}

impl FaultRule {
    fn selects(&self, call: &Call<'_>, random: u64) -> bool {
        let has_prefix = |key: &Key<'_>| key.pk.starts_with(&self.pk_prefix);
        (self.operations.is_empty() || self.operations.contains(&call.operation))
            && (self.pk_prefix.is_empty() || call.keys.iter().any(has_prefix))
            && call.allows(self.fault)
            // The upper 53 bits are a fraction that a float holds exactly.
            && self.rate.is_none_or(|rate| ((random >> 11) as f64) < rate * (1_u64 << 53) as f64)
    }
}

/// Shows the rules and the seed.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("seed", &self.seed)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

/// The same on every machine and in every release of the compiler, so that a seed replays a run.
fn hash_call(seed: u64, call: &Call<'_>) -> u64 {
    let mut hash = mix(seed ^ mix(call.operation as u64 + 1));
    for key in call.keys {
        for part in [key.pk, key.sk] {
            // FNV-1a of the bytes, then the length, which separates the parts.
            for byte in part.bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            hash = mix(hash ^ part.len() as u64);
        }
    }
    hash
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(bits: u64) -> u64 {
    let mut bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
