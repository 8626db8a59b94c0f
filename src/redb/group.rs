//! Group commit: of the callers that wait, one executes the requests of all and reports each result.
//! Nothing here depends on files or on redb.
//!
//! A caller that arrives while there is no leader becomes the *leader*. It takes its own request and
//! all queued ones, in the order of arrival, including those that arrive while it takes them. It
//! executes them as one, hands leadership to the first caller that is still queued, and then delivers
//! the results. There is no background thread.
//!
//! # Locks
//!
//! The queue's mutex is held to add or take requests, and a waiter's mutex to set or take its signal.
//! No thread holds two of them, and none is held while requests are executed or dropped.
//!
//! # Invariants
//!
//! 1. `has_leader` is set exactly while a caller leads or has been signalled to lead.
//! 2. The queue is empty while `has_leader` is not set, so no caller waits without a leader.
//! 3. When a leader ends, even by a panic, it has handed off its leadership and signalled every waiter
//!    whose request it took.

use crate::sync::{Arc, Condvar, Mutex, thread};
use std::collections::VecDeque;
use std::vec;

/// Executes requests of type `Q` in groups, with one response of type `R` for each.
pub(super) struct GroupCommit<Q, R> {
    queue: Mutex<Queue<Q, R>>,
    max_yields: u32,
}

struct Queue<Q, R> {
    waiting: VecDeque<(Q, Arc<Waiter<Q, R>>)>,
    has_leader: bool,
    /// The number of followers that the next leader expects: the callers of the last group, which may
    /// return soon, and the callers that are still queued, less the next leader itself.
    expected_followers: usize,
}

/// Where one caller waits for a response or for leadership.
struct Waiter<Q, R> {
    signal: Mutex<Signal<Q, R>>,
    condvar: Condvar,
}

enum Signal<Q, R> {
    Pending,
    /// The caller becomes the leader, and gets its request back.
    Lead(Q),
    Done(R),
}

impl<Q, R> GroupCommit<Q, R> {
    /// Creates a group commit whose leaders yield up to `max_yields` times.
    ///
    /// A leader that finds the queue empty yields to other threads while fewer followers than expected
    /// have arrived. Callers whose requests were executed together tend to return together, and a
    /// leader that did not wait for them would miss them. A lone caller never waits, because it
    /// expects no followers.
    pub(super) fn new(max_yields: u32) -> Self {
        GroupCommit {
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                has_leader: false,
                expected_followers: 0,
            }),
            max_yields,
        }
    }

    /// Executes `request`, with others that are queued, and returns its response.
    ///
    /// `execute` is called at most once, on this thread and only if it leads. It takes requests from
    /// the iterator, its own first and then those of followers in the order of arrival, and returns
    /// the responses in the same order. Requests that it does not take are left for the next leader.
    /// A caller whose request was taken without a response, because `execute` panicked or returned too
    /// few, receives `no_response()`.
    pub(super) fn submit(
        &self,
        request: Q,
        execute: impl FnOnce(&mut dyn Iterator<Item = Q>) -> Vec<R>,
        no_response: impl Fn() -> R,
    ) -> R {
        let request = match self.enqueue(request) {
            Ok(request) => request,
            Err(waiter) => match waiter.wait() {
                Ok(response) => return response,
                Err(request) => request,
            },
        };
        let mut leader = Leader {
            group: self,
            request: Some(request),
            followers: Vec::new(),
            yields_left: self.max_yields,
            responses: Vec::new().into_iter(),
            no_response: &no_response,
        };
        leader.responses = execute(&mut leader.by_ref().fuse()).into_iter();
        leader.next_response()
    }

    /// Returns the request if its caller becomes the leader, and the waiter of the queued request
    /// otherwise (invariant 2).
    fn enqueue(&self, request: Q) -> Result<Q, Arc<Waiter<Q, R>>> {
        let mut queue = self.queue.lock();
        if !std::mem::replace(&mut queue.has_leader, true) {
            return Ok(request);
        }
        let waiter = Arc::new(Waiter::new());
        queue.waiting.push_back((request, Arc::clone(&waiter)));
        Err(waiter)
    }

    /// Ends the leadership of a caller that had this many `followers`: the first queued caller becomes
    /// the leader, if there is one (invariant 1).
    fn hand_off(&self, followers: usize) {
        let mut queue = self.queue.lock();
        queue.expected_followers = followers + queue.waiting.len();
        let next = queue.waiting.pop_front();
        queue.has_leader = next.is_some();
        drop(queue);
        if let Some((request, waiter)) = next {
            waiter.notify(Signal::Lead(request));
        }
    }
}

impl<Q, R> Waiter<Q, R> {
    fn new() -> Self {
        Waiter {
            signal: Mutex::new(Signal::Pending),
            condvar: Condvar::default(),
        }
    }

    fn notify(&self, signal: Signal<Q, R>) {
        *self.signal.lock() = signal;
        self.condvar.notify_one();
    }

    /// Waits for the response, or for the caller's own request if it becomes the leader.
    fn wait(&self) -> Result<R, Q> {
        let mut signal = self.signal.lock();
        loop {
            match std::mem::replace(&mut *signal, Signal::Pending) {
                Signal::Done(response) => return Ok(response),
                Signal::Lead(request) => return Err(request),
                Signal::Pending => signal = self.condvar.wait(signal),
            }
        }
    }
}

/// One caller's leadership, and the iterator over the requests of its group.
struct Leader<'a, Q, R, F: Fn() -> R> {
    group: &'a GroupCommit<Q, R>,
    request: Option<Q>,
    /// The waiters whose requests were taken after the leader's own.
    followers: Vec<Arc<Waiter<Q, R>>>,
    yields_left: u32,
    responses: vec::IntoIter<R>,
    no_response: &'a F,
}

impl<Q, R, F: Fn() -> R> Leader<'_, Q, R, F> {
    fn next_response(&mut self) -> R {
        self.responses.next().unwrap_or_else(self.no_response)
    }
}

impl<Q, R, F: Fn() -> R> Iterator for Leader<'_, Q, R, F> {
    type Item = Q;

    fn next(&mut self) -> Option<Q> {
        if let Some(request) = self.request.take() {
            return Some(request);
        }
        loop {
            let mut queue = self.group.queue.lock();
            if let Some((request, waiter)) = queue.waiting.pop_front() {
                drop(queue);
                self.followers.push(waiter);
                return Some(request);
            }
            if self.followers.len() >= queue.expected_followers {
                return None;
            }
            drop(queue);
            self.yields_left = self.yields_left.checked_sub(1)?;
            thread::yield_now();
        }
    }
}

/// Keeps invariant 3. The hand-off comes first, so that the next leader can begin its I/O while the
/// responses are delivered.
impl<Q, R, F: Fn() -> R> Drop for Leader<'_, Q, R, F> {
    fn drop(&mut self) {
        self.group.hand_off(self.followers.len());
        for waiter in std::mem::take(&mut self.followers) {
            waiter.notify(Signal::Done(self.next_response()));
        }
    }
}

#[cfg(test)]
#[cfg(not(any(loom, shuttle)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::time::Duration;

    type Group = GroupCommit<u32, Option<u32>>;
    type Requests<'a> = &'a mut dyn Iterator<Item = u32>;

    /// Fails instead of hanging if `body` deadlocks.
    fn with_timeout(body: impl FnOnce() + Send + 'static) {
        crate::testing::with_timeout(Duration::from_secs(60), |_| body());
    }

    /// Submits `number`. A leader doubles all requests of its group, and adds the group to `groups`.
    fn double(group: &Group, number: u32, groups: &Mutex<Vec<Vec<u32>>>) -> Option<u32> {
        let execute = |requests: Requests| {
            let requests: Vec<u32> = requests.collect();
            let responses = requests.iter().map(|number| Some(number * 2)).collect();
            groups.lock().push(requests);
            responses
        };
        group.submit(number, execute, || None)
    }

    fn wait_for_queued(group: &Group, count: usize) {
        while group.queue.lock().waiting.len() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn a_lone_caller_executes_its_own_request() {
        with_timeout(|| {
            let (group, groups) = (Group::new(0), Mutex::new(Vec::new()));
            assert_eq!(double(&group, 1, &groups), Some(2));
            assert_eq!(double(&group, 2, &groups), Some(4));
            assert_eq!(*groups.lock(), [[1], [2]]);
        });
    }

    #[test]
    fn all_queued_requests_are_executed_as_one_group_in_the_order_of_arrival() {
        with_timeout(|| {
            let (group, groups) = (Group::new(0), Mutex::new(Vec::new()));
            let (lead, leads) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let execute = |_: Requests| {
                        lead.send(()).unwrap();
                        wait_for_queued(&group, 5);
                        vec![Some(0)]
                    };
                    assert_eq!(group.submit(0, execute, || None), Some(0));
                });
                leads.recv().unwrap();
                for number in 1..=5 {
                    let (group, groups) = (&group, &groups);
                    scope.spawn(move || {
                        assert_eq!(double(group, number, groups), Some(2 * number));
                    });
                    // The leader ends when the fifth is queued, and the queue may be empty at once.
                    if number < 5 {
                        wait_for_queued(group, number as usize);
                    }
                }
            });
            assert_eq!(*groups.lock(), [[1, 2, 3, 4, 5]]);
        });
    }

    #[test]
    fn a_request_that_arrives_while_the_leader_takes_requests_joins_its_group() {
        with_timeout(|| {
            let group = Group::new(0);
            let (lead, leads) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let execute = |requests: Requests| {
                        let mut taken = vec![requests.next()];
                        lead.send(()).unwrap();
                        wait_for_queued(&group, 1);
                        taken.extend(requests.map(Some));
                        taken
                    };
                    assert_eq!(group.submit(1, execute, || None), Some(1));
                });
                leads.recv().unwrap();
                let execute = |_: Requests| panic!("another caller leads");
                assert_eq!(group.submit(2, execute, || None), Some(2));
            });
        });
    }

    #[test]
    fn a_leader_waits_for_the_callers_of_the_last_group() {
        with_timeout(|| {
            let group = &Group::new(u32::MAX);
            let (lead, leads) = mpsc::channel();
            let (take, takes) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(move || {
                    let execute = |_: Requests| {
                        lead.send(()).unwrap();
                        wait_for_queued(group, 1);
                        vec![Some(0)]
                    };
                    assert_eq!(group.submit(0, execute, || None), Some(0));
                    // Returns when the next leader has begun.
                    takes.recv().unwrap();
                    let execute = |_: Requests| panic!("another caller leads");
                    assert_eq!(group.submit(2, execute, || None), Some(2));
                });
                leads.recv().unwrap();
                let execute = |requests: Requests| {
                    let mut taken = vec![requests.next()];
                    take.send(()).unwrap();
                    taken.extend(requests.map(Some));
                    taken
                };
                assert_eq!(group.submit(1, execute, || None), Some(1));
            });
        });
    }

    #[test]
    fn a_leader_that_panics_leaves_no_caller_waiting() {
        with_timeout(|| {
            let (group, groups) = (Group::new(0), Mutex::new(Vec::new()));
            let (lead, leads) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // It takes no request, so the queued ones are left for the next leader.
                    let execute = |_: Requests| {
                        lead.send(()).unwrap();
                        wait_for_queued(&group, 3);
                        vec![Some(0)]
                    };
                    group.submit(0, execute, || None)
                });
                leads.recv().unwrap();
                let panics = scope.spawn(|| {
                    let execute = |requests: Requests| {
                        assert_eq!(requests.count(), 3);
                        panic!("an injected panic")
                    };
                    let submit = || group.submit(1, execute, || None);
                    catch_unwind(AssertUnwindSafe(submit)).is_err()
                });
                wait_for_queued(&group, 1);
                let followers = [2, 3].map(|number| {
                    let (group, groups) = (&group, &groups);
                    scope.spawn(move || double(group, number, groups))
                });
                assert!(panics.join().unwrap(), "the leader's panic was swallowed");
                for follower in followers {
                    assert_eq!(follower.join().unwrap(), None);
                }
            });
            assert_eq!(double(&group, 4, &groups), Some(8));
        });
    }

    #[test]
    fn a_caller_without_a_response_receives_no_response() {
        with_timeout(|| {
            let group = Group::new(0);
            assert_eq!(group.submit(1, |_: Requests| Vec::new(), || None), None);
            let too_many = |_: Requests| vec![Some(1), Some(2)];
            assert_eq!(group.submit(1, too_many, || None), Some(1));
        });
    }
}

/// All interleavings of two callers (loom), or many random and PCT schedules of four (shuttle).
#[cfg(test)]
#[cfg(any(loom, shuttle))]
mod model {
    use super::*;
    use crate::sync::explore;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    #[cfg(loom)]
    use loom::{sync::Arc as Shared, thread::spawn};
    #[cfg(shuttle)]
    use shuttle::{sync::Arc as Shared, thread::spawn};

    const CALLERS: u32 = if cfg!(loom) { 2 } else { 4 };

    /// Whichever caller leads, every request is executed once and every caller receives its own
    /// response.
    #[test]
    fn every_caller_receives_its_own_response_once() {
        explore(|| {
            let group = Shared::new(GroupCommit::<u32, (u32, u32)>::new(1));
            let executed = Shared::new(Mutex::new(Vec::<u32>::new()));
            let submit = |number: u32| {
                let (group, executed) = (Shared::clone(&group), Shared::clone(&executed));
                move || {
                    let execute = |requests: &mut dyn Iterator<Item = u32>| {
                        let requests: Vec<u32> = requests.collect();
                        let mut executed = executed.lock();
                        let first = executed.len() as u32;
                        executed.extend(&requests);
                        (first..).zip(requests).collect()
                    };
                    group.submit(number, execute, || panic!("no response"))
                }
            };
            let others: Vec<_> = (1..CALLERS).map(|number| spawn(submit(number))).collect();
            let mut responses = vec![submit(0)()];
            responses.extend(others.into_iter().map(|other| other.join().unwrap()));
            let mut executed = executed.lock().clone();
            for (index, number) in &responses {
                assert_eq!(executed[*index as usize], *number);
            }
            executed.sort_unstable();
            assert_eq!(executed, (0..CALLERS).collect::<Vec<_>>());
        });
    }

    /// A leader that panics leaves no caller waiting, and later requests are executed.
    #[test]
    fn no_caller_waits_for_a_leader_that_panicked() {
        explore(|| {
            let group = Shared::new(GroupCommit::<bool, bool>::new(0));
            let submit = |panics: bool| {
                let group = Shared::clone(&group);
                move || {
                    let execute = |requests: &mut dyn Iterator<Item = bool>| {
                        let execute_one = |panics| {
                            if panics {
                                resume_unwind(Box::new("an injected panic"))
                            }
                            true
                        };
                        requests.map(execute_one).collect()
                    };
                    let submit = || group.submit(panics, execute, || false);
                    catch_unwind(AssertUnwindSafe(submit)).ok()
                }
            };
            let other = spawn(submit(false));
            let panicked = submit(true)();
            assert_ne!(panicked, Some(true), "the request that panics was executed");
            other.join().unwrap();
            assert_eq!(submit(false)(), Some(true));
        });
    }
}
