//! The queues in which transactions that lost a race for a lock take turns.
//!
//! A turn is not a lock. It decides which of the contending transactions tries next, and the commit
//! decides which one succeeds. So a turn may end at any time, be taken over, or not be waited for at
//! all, without a risk for the data.
//!
//! Lock order: [`RetryQueue::queues`] is a leaf. No other mutex is locked and no user code runs while
//! it is held.

use crate::hash::KeyHasher;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, ThreadId, current_thread};
use crate::{Key, KeyBuf};
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Where the transactions of one database that lost a race for the same lock take turns, instead of
/// racing each other again.
///
/// An implementor of [`AtomicDb`](crate::AtomicDb) stores one next to its data, and returns it from
/// [`retry_queue`](crate::AtomicDb::retry_queue) of every handle to that data. The rest is done by
/// [`transact`](crate::AtomicDbExt::transact) and [`update`](crate::AtomicDbExt::update).
///
/// - A transaction that lost a race for a lock waits in the queue of that lock, and makes its next
///   attempts in its turn. Other transactions remain optimistic and do not wait.
/// - If a transaction loses again in its own turn, the lock is closed: until the queue is empty or
///   its turns are short, transactions that [`lock`](crate::Transaction::lock) it wait from their first
///   attempt on. Transactions that [`check`](crate::Transaction::check) it never wait.
/// - A wait is bounded. It ends at the deadline of the [`Retry`](crate::Retry), and if a turn takes
///   longer than 250 milliseconds, the next transaction takes over. So a paused thread, a transaction
///   within another one, or another process causes delays, and never a deadlock.
///
/// Without conflicts, a queue stores nothing and costs one relaxed load for each lock.
#[derive(Default)]
pub struct RetryQueue {
    /// The number of closed locks. A stale value is harmless: it lets a transaction race, or makes it
    /// look into `queues`.
    closed: AtomicU64,
    last_ticket: AtomicU64,
    queues: Mutex<Queues>,
}

/// The number of a transaction, in the order in which they first had to wait.
type Ticket = u64;

/// One queue for each lock at which a transaction has its turn.
#[derive(Default)]
struct Queues {
    hasher: KeyHasher,
    table: HashTable<Queue>,
}

struct Queue {
    lock: KeyBuf,
    holder: Ticket,
    holder_thread: ThreadId,
    turn_began: Instant,
    is_closed: bool,
    /// In ascending order of their tickets.
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    ticket: Ticket,
    thread: ThreadId,
    turn_came: Arc<Condvar>,
}

/// A turn that takes longer may be taken over. A model checker explores every moment of it.
const PATIENCE: Duration = if cfg!(any(loom, shuttle)) {
    Duration::ZERO
} else {
    Duration::from_millis(250)
};

/// Several times the cost of waking a thread. For shorter turns, losing a race is cheaper than waiting.
const SHORT_TURN: Duration = if cfg!(any(loom, shuttle)) {
    Duration::ZERO
} else {
    Duration::from_micros(20)
};

impl RetryQueue {
    /// Creates a queue in which no transaction waits.
    #[must_use]
    pub fn new() -> Self {
        RetryQueue::default()
    }

    /// Ends the turn of `ticket` at `lock`, if it has one, and wakes the next transaction.
    fn end_turn(&self, ticket: Ticket, lock: Key<'_>) {
        let mut queues = self.queues.lock();
        let Queues { hasher, table } = &mut *queues;
        let hash = hasher.hash_key(lock);
        let Ok(mut entry) = table.find_entry(hash, |queue| queue.lock.as_key() == lock) else {
            return;
        };
        let queue = entry.get_mut();
        if queue.holder != ticket {
            return;
        }
        let is_short = queue.turn_began.elapsed() < SHORT_TURN;
        let next = queue.next_turn();
        if queue.is_closed && (is_short || next.is_none()) {
            queue.is_closed = false;
            self.closed.fetch_sub(1, Ordering::Relaxed);
        }
        if next.is_none() {
            entry.remove();
        }
        drop(queues);
        if let Some(turn_came) = next {
            turn_came.notify_one();
        }
    }

    /// Closes `lock` if `ticket` has its turn there.
    fn close(&self, ticket: Ticket, lock: Key<'_>) {
        let mut queues = self.queues.lock();
        match queues.find(lock) {
            Some(queue) if queue.holder == ticket && !queue.is_closed => {
                queue.is_closed = true;
                self.closed.fetch_add(1, Ordering::Relaxed);
            }
            _ => (),
        }
    }

    #[cold]
    fn is_closed(&self, lock: Key<'_>) -> bool {
        let mut queues = self.queues.lock();
        queues.find(lock).is_some_and(|queue| queue.is_closed)
    }

    /// Gives `ticket` the turn at `lock` if no other transaction has it. Returns `true` if there is
    /// nothing to wait for.
    fn try_take(&self, ticket: Ticket, lock: Key<'_>) -> bool {
        let mut queues = self.queues.lock();
        match queues.find(lock) {
            // A transaction within another one must not wait for the outer one.
            Some(queue) => queue.holder == ticket || queue.holder_thread == current_thread(),
            None => {
                queues.insert(ticket, lock);
                true
            }
        }
    }

    /// Waits until `ticket` has its turn at `lock`, or `time_left` returns zero. Returns the time that it
    /// waited.
    fn wait(
        &self,
        ticket: Ticket,
        lock: Key<'_>,
        time_left: &mut dyn FnMut() -> Duration,
    ) -> Duration {
        let turn_came = Arc::new(Condvar::default());
        let mut timed_out = false;
        let mut time_at_start = None;
        loop {
            // The clock is user code, so it is read before the mutex is locked.
            let time = time_left();
            let waited = time_at_start.get_or_insert(time).saturating_sub(time);
            let mut queues = self.queues.lock();
            let Some(queue) = queues.find(lock) else {
                queues.insert(ticket, lock);
                return waited;
            };
            if queue.holder == ticket {
                // Time until this thread woke up is not time that a turn takes.
                queue.turn_began = Instant::now();
                return waited;
            }
            if timed_out && queue.is_next(ticket) && queue.turn_began.elapsed() >= PATIENCE {
                queue.next_turn();
                return waited;
            }
            if time.is_zero() {
                queue.waiters.retain(|waiter| waiter.ticket != ticket);
                return waited;
            }
            queue.add_waiter(ticket, &turn_came);
            (_, timed_out) = turn_came.wait_for(queues, time.min(PATIENCE));
        }
    }
}

impl Queues {
    fn find(&mut self, lock: Key<'_>) -> Option<&mut Queue> {
        let hash = self.hasher.hash_key(lock);
        let has_lock = |queue: &Queue| queue.lock.as_key() == lock;
        self.table.find_mut(hash, has_lock)
    }

    /// Adds a queue in which `ticket` has its turn. There must be none for `lock`.
    fn insert(&mut self, ticket: Ticket, lock: Key<'_>) {
        let Queues { hasher, table } = self;
        let queue = Queue {
            lock: lock.to_buf(),
            holder: ticket,
            holder_thread: current_thread(),
            turn_began: Instant::now(),
            is_closed: false,
            waiters: VecDeque::new(),
        };
        table.insert_unique(hasher.hash_key(lock), queue, |queue| {
            hasher.hash_key(queue.lock.as_key())
        });
    }
}

impl Queue {
    fn is_next(&self, ticket: Ticket) -> bool {
        self.waiters
            .front()
            .is_some_and(|next| next.ticket == ticket)
    }

    /// Lets `ticket` wait, unless it does already: it is removed when it gets its turn, which may be
    /// taken over before its thread wakes up.
    fn add_waiter(&mut self, ticket: Ticket, turn_came: &Arc<Condvar>) {
        let position = self
            .waiters
            .binary_search_by_key(&ticket, |waiter| waiter.ticket);
        if let Err(position) = position {
            let waiter = Waiter {
                ticket,
                thread: current_thread(),
                turn_came: Arc::clone(turn_came),
            };
            self.waiters.insert(position, waiter);
        }
    }

    /// Gives the turn to the next waiter, and returns what wakes it.
    fn next_turn(&mut self) -> Option<Arc<Condvar>> {
        let next = self.waiters.pop_front()?;
        self.holder = next.ticket;
        self.holder_thread = next.thread;
        self.turn_began = Instant::now();
        Some(next.turn_came)
    }
}

impl fmt::Debug for RetryQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryQueue").finish_non_exhaustive()
    }
}

/// The turns that one transaction has or waits for. They end when it is dropped.
pub(super) struct Turns<'a> {
    queue: &'a RetryQueue,
    /// Zero until a turn is needed.
    ticket: Ticket,
    /// `None` until a turn is needed.
    taken: Option<Box<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// In ascending order.
    locks: Vec<KeyBuf>,
    /// The sum of all waits.
    waited: Duration,
}

impl<'a> Turns<'a> {
    pub(super) fn new(queue: &'a RetryQueue) -> Self {
        Turns {
            queue,
            ticket: 0,
            taken: None,
        }
    }

    /// Returns the time that was waited for turns.
    pub(super) fn waited(&self) -> Duration {
        self.taken
            .as_ref()
            .map_or(Duration::ZERO, |taken| taken.waited)
    }

    /// Waits for the turn at `lock` if the lock is closed, until `time_left` returns zero.
    #[inline]
    pub(super) fn wait_if_closed(
        &mut self,
        lock: Key<'_>,
        time_left: &mut dyn FnMut() -> Duration,
    ) {
        if self.queue.closed.load(Ordering::Relaxed) > 0 && self.queue.is_closed(lock) {
            self.take([lock], time_left);
        }
    }

    /// Takes the turns at `lost`, locks for which the transaction lost a race, until `time_left`
    /// returns zero. Those at which it had its turn already are closed.
    pub(super) fn take_after_race<'k>(
        &mut self,
        lost: impl Iterator<Item = Key<'k>> + Clone,
        time_left: &mut dyn FnMut() -> Duration,
    ) {
        for lock in lost.clone() {
            self.queue.close(self.ticket, lock);
        }
        self.take(lost, time_left);
    }

    fn take<'k>(
        &mut self,
        locks: impl IntoIterator<Item = Key<'k>>,
        time_left: &mut dyn FnMut() -> Duration,
    ) {
        if self.ticket == 0 {
            self.ticket = 1 + self.queue.last_ticket.fetch_add(1, Ordering::Relaxed);
        }
        let Taken { locks: all, waited } = &mut **self.taken.get_or_insert_default();
        all.extend(locks.into_iter().map(Key::to_buf));
        all.sort_unstable();
        all.dedup();
        for (position, lock) in all.iter().enumerate() {
            if self.queue.try_take(self.ticket, lock.as_key()) {
                continue;
            }
            // A transaction that waits has no turn at a greater lock, so that transactions do not
            // wait for each other in a circle.
            for greater in &all[position + 1..] {
                self.queue.end_turn(self.ticket, greater.as_key());
            }
            *waited += self.queue.wait(self.ticket, lock.as_key(), time_left);
        }
    }
}

impl Drop for Turns<'_> {
    #[inline]
    fn drop(&mut self) {
        let Some(taken) = &self.taken else {
            return;
        };
        for lock in &taken.locks {
            self.queue.end_turn(self.ticket, lock.as_key());
        }
    }
}

#[cfg(test)]
mod tests;
